"""The contract battery: checks that every method must pass, whatever it does, in seconds on a tiny ViT.

Updates are made by the real client half, on images; the server half is then driven in ways that a run drives it. Each
check is a function of a `Trial` whose first line says what must hold; it raises `Broken` where it does not.

    tiny         a random ViT of two blocks, images of random patterns
    trial        a run over two tasks, with everything that went in and came out
    form         states: groups of arrays, under names that are free
    watch        calls of a method's code: exceptions, changed inputs, draws from global generators
    memory       what code can remember outside the contract, and forgetting it
    settings, clients, merging, storing     the checks
    remarks      what is odd in a method's file, and no mistake by itself
    verdict      all checks on one method, and where in its file one fails
"""

from fcil.battery.outcome import Broken, NotAsked, NotReached
from fcil.battery.remarks import Remark, remarks
from fcil.battery.trial import Trial, trial_of
from fcil.battery.verdict import CHECKS, CheckResult, examine

__all__ = [
    "CHECKS",
    "Broken",
    "NotAsked",
    "NotReached",
    "CheckResult",
    "Remark",
    "Trial",
    "examine",
    "remarks",
    "trial_of",
]
