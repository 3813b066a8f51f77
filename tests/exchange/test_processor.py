"""Kinds of processor: whatever makes libraries choose other kernels makes another kind, and nothing else does."""

import subprocess
import sys

import pytest

from fcil.exchange.processor import described_processor, processor_kind

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
cpu MHz\t\t: 3100.1
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni hypervisor
bogomips\t: 5000.00

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: another
"""
ARM = "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd0c\nFeatures : fp asimd sve bf16 i8mm cpuid\n"
LIBRARIES = ["openblas 0.3.30 SkylakeX", "openmp None None"]


def of(cpuinfo=INTEL, environment=(), capability="AVX512", libraries=tuple(LIBRARIES), gpus=()):
    return described_processor(cpuinfo, dict(environment), capability, list(libraries), list(gpus))


@pytest.mark.parametrize("changed", [
    {"cpuinfo": INTEL.replace("GenuineIntel\ncpu", "AuthenticAMD\ncpu")}, {"cpuinfo": INTEL.replace(": 85", ": 106")},
    {"cpuinfo": INTEL.replace("family\t: 6", "family\t: 25")}, {"cpuinfo": INTEL.replace("8259CL", "8175M")},
    {"cpuinfo": INTEL.replace("avx512f", "avx512f avx512_bf16 amx_tile")}, {"cpuinfo": ARM},
    {"cpuinfo": INTEL.replace(" fma", "")}, {"capability": "AVX2"}, {"gpus": ["NVIDIA H100"]},
    {"libraries": ["openblas 0.3.30 Haswell", "openmp None None"]}, {"libraries": ["mkl 2026.0 None"]},
    {"environment": {"MKL_CBWR": "COMPATIBLE"}}, {"environment": {"ONEDNN_MAX_CPU_ISA": "AVX2"}},
    {"environment": {"OPENBLAS_CORETYPE": "Haswell"}}, {"environment": {"NPY_DISABLE_CPU_FEATURES": "AVX512F"}},
])  # fmt: skip
def test_what_may_choose_other_kernels_makes_another_kind(changed):
    assert of(**changed) != of()


def test_what_differs_between_cores_moments_and_places_does_not():
    assert of(INTEL.replace("3100.1", "2500.0").replace("5000.00", "4999.9").replace(": another", ": third")) == of()
    assert of(INTEL.replace(" hypervisor", " flush_l1d")) == of()
    assert of(environment={"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "HOME": "/x", "MKL_VERBOSE": "1"}) == of()
    assert of(libraries=LIBRARIES[::-1] * 2) == of()
    assert of(ARM)["flags"] == ["asimd", "bf16", "i8mm", "sve"]


def test_it_is_the_same_in_every_process_here_whatever_was_loaded_before():
    ask = "from fcil.exchange.processor import processor_kind; print(processor_kind())"
    theirs = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    assert theirs == processor_kind()
    assert len(theirs.rpartition(", ")[2]) == 8
