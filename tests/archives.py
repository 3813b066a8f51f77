"""Small archives in the layouts that the authors of data sets publish: a few tiny images, real containers."""

import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image
from scipy.io import savemat

from fcil.data import Data

SHAPES = [(30, 40), (40, 30), (36, 36), (20, 70)]


def picture(seed, shape=None):
    """A smooth picture, unlike those of other seeds: (h, w, 3) uint8."""
    height, width = shape or SHAPES[seed % len(SHAPES)]
    y, x = np.mgrid[0:height, 0:width] / 20
    return np.stack([127 + 120 * np.sin(x * (1 + seed % 5) + seed + c) * np.cos(y + c) for c in range(3)], 2).astype(
        "u1"
    )


def encoded(pixels, kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def in_tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def classes_of(names, each, folder, shape=None):
    """`each` pictures of each class below `folder`."""
    return {
        f"{folder}{name}/{name}_{i}.jpg": encoded(picture(10 * label + i, shape))
        for label, name in enumerate(names)
        for i in range(each)
    }


def python2_pickle(value):
    """Protocol 2 as Python 2 wrote it: byte strings, and arrays by NumPy's old module names."""

    def put(v):
        if isinstance(v, str):
            return b"T" + struct.pack("<i", len(v)) + v.encode()
        if isinstance(v, bytes):
            return b"T" + struct.pack("<i", len(v)) + v
        if isinstance(v, bool):
            return b"\x88" if v else b"\x89"
        if v is None:
            return b"N"
        if isinstance(v, int):
            return b"J" + struct.pack("<i", v)
        if isinstance(v, tuple):
            return b"(" + b"".join(map(put, v)) + b"t"
        if isinstance(v, list):
            return b"](" + b"".join(map(put, v)) + b"e"
        if isinstance(v, dict):
            return b"}(" + b"".join(put(k) + put(x) for k, x in v.items()) + b"u"
        dtype = b"cnumpy\ndtype\n" + put(("u1", 0, 1)) + b"R" + put((3, "|", None, None, None, -1, -1, 0)) + b"b"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + put((0,)) + put("b") + b"tR"
        state = b"(" + put(1) + put(v.shape) + dtype + put(False) + put(v.tobytes()) + b"t"
        return empty + state + b"b"

    return b"\x80\x02" + put(value) + b"."


def cifar100(root, classes=4, each=3):
    """cifar-100-python.tar.gz; pictures are `picture(seed, (32, 32))`, counted up over train, then test."""
    rows = [picture(i, (32, 32)).transpose(2, 0, 1).reshape(-1) for i in range(2 * classes * each)]
    labels = [i % classes for i in range(classes * each)]

    def batch(part, pixels):
        names = [f"{part}_{i}.png" for i in range(len(labels))]
        return python2_pickle({
            "filenames": names, "batch_label": f"{part} batch 1 of 1", "fine_labels": labels,
            "coarse_labels": [0] * len(labels), "data": np.stack(pixels),
        })  # fmt: skip

    meta = {"fine_label_names": ["apple", "aquarium_fish", "baby", "bear"], "coarse_label_names": ["things"]}
    content = {"meta": python2_pickle(meta), "train": batch("train", rows[: len(labels)]),
               "test": batch("test", rows[len(labels) :])}  # fmt: skip
    in_tar(root / "cifar-100-python.tar.gz", {f"cifar-100-python/{k}": v for k, v in content.items()})


WNIDS = ["n01443537", "n01484850", "n01494475"]


def imagenet(root, name="imagenet-r", each=5):
    files = classes_of(WNIDS, each, f"{name}/") | {f"{name}/README.txt": b"200 classes\n"}
    in_tar(root / f"{name}.tar", files, "w")


BIRDS = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]


def cub(root):
    """Six images, of which 1, 2, 4 and 5 are for training."""
    names = [f"{bird}/{bird}_{i}.jpg" for bird in BIRDS for i in range(3)]
    tables = {
        "images.txt": names,
        "image_class_labels.txt": [1, 1, 1, 2, 2, 2],
        "train_test_split.txt": [1, 1, 0, 1, 1, 0],
        "classes.txt": BIRDS,
    }
    files = {f"CUB_200_2011/images/{name}": encoded(picture(i)) for i, name in enumerate(names)}
    for name, values in tables.items():
        files[f"CUB_200_2011/{name}"] = "".join(f"{i} {v}\n" for i, v in enumerate(values, 1)).encode()
    in_tar(root / "CUB_200_2011.tgz", files)


CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]


def mat(**arrays):
    stream = io.BytesIO()
    savemat(stream, arrays)
    return stream.getvalue()


def annotations(labels, with_class=True):
    kinds = [(f"bbox_{corner}", "O") for corner in ("x1", "y1", "x2", "y2")]
    rows = np.zeros((1, len(labels)), [*kinds, *([("class", "O")] if with_class else []), ("fname", "O")])
    for i, label in enumerate(labels):
        box = (1, 1, 9, 9)
        rows[0, i] = (*box, *([label] if with_class else []), f"{i + 1:05d}.jpg")
    return mat(annotations=rows)


def cars(root):
    names = np.empty((1, 2), object)
    names[0] = CARS
    devkit = {"devkit/cars_meta.mat": mat(class_names=names), "devkit/cars_train_annos.mat": annotations([2, 1, 2]),
              "devkit/cars_test_annos.mat": annotations([1, 2], with_class=False)}  # fmt: skip
    in_tar(root / "car_devkit.tgz", devkit)
    for part, count in (("train", 3), ("test", 2)):
        pictures = {f"cars_{part}/{i + 1:05d}.jpg": encoded(picture(i)) for i in range(count)}
        in_tar(root / f"cars_{part}.tgz", pictures)
    (root / "cars_test_annos_withlabels.mat").write_bytes(annotations([1, 2]))


def eurosat(root, each=5):
    with zipfile.ZipFile(root / "EuroSAT.zip", "w") as archive:
        for name, content in classes_of(["AnnualCrop", "Forest"], each, "2750/", (64, 64)).items():
            archive.writestr(name, content)


def folder(root):
    for part, each in (("train", 4), ("test", 2)):
        for name, content in classes_of(["cats", "dogs"], each, f"{part}/").items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


WRITE = {
    "cifar100": cifar100, "imagenet-r": imagenet, "imagenet-a": lambda root: imagenet(root, "imagenet-a"),
    "cub200": cub, "cars196": cars, "eurosat": eurosat, "folder": folder,
}  # fmt: skip


def settings(name, root, **more):
    return Data(name=name, root=str(root), unofficial=True, **more)
