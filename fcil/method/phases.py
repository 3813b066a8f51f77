"""Messages between server and clients: a phase, the server's broadcast in it, and a client's update."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fcil.arrays import Arrays
from fcil.seeding import generator

__all__ = [
    "REPORT", "TRAIN", "Amount", "Backbone", "Broadcast", "ClientUpdate", "GramLayout", "GramShape", "HeadStart",
    "Kind", "NoSum", "Phase", "Shapes", "Stream", "Task", "gram_layouts",
]  # fmt: skip

Kind = Literal["train", "report"]
TRAIN: Kind = "train"
REPORT: Kind = "report"
HeadStart = Literal["linear", "timm"]
"""How new head rows begin: as torch's Linear, or as the heads of timm's vision transformers."""
Stream = Literal["federated", "pooled", "at_once", "each_alone"]
"""Who has the data: the clients, task by task; one client, task by task; one client, all classes in one task; or one
client for each task, which has no other data and forgets what it learns: the reference for forward transfer."""
Shapes = Mapping[str, tuple[int, ...]]
"""Array name -> shape; -1 stands for a length that only the client knows."""
GramLayout = Literal["matrix", "half", "diagonal"]
"""How an array holds a Gram matrix of n features: (n, n), its upper half row by row, or its diagonal, (n,)."""


class GramShape(tuple[int, ...]):
    """The shape of an array that holds a Gram matrix, sum x x^T: the server refuses negative entries on its diagonal.

    >>> GramShape((6,), "half") == (6,)
    True
    """

    layout: GramLayout

    def __new__(cls, shape: tuple[int, ...], layout: GramLayout) -> "GramShape":
        """Raise ValueError where no Gram matrix in this layout has the shape."""
        n = shape[0]
        fits = {
            "matrix": len(shape) == 2 and n == shape[-1],
            "half": len(shape) == 1 and (n < 0 or (root := math.isqrt(2 * n)) * (root + 1) == 2 * n),
            "diagonal": len(shape) == 1,
        }
        if not fits[layout]:
            raise ValueError(f"no Gram matrix has the shape {shape} in the layout {layout!r}")
        declared = super().__new__(cls, shape)
        declared.layout = layout
        return declared


Amount = Literal["root", "constant", "weighted"]
"""How an array that is no sum depends on how many samples a client holds: see `NoSum`."""


class NoSum(tuple[int, ...]):
    """The shape of an array that is not a sum over the client's samples, so that filters measure and scale it rightly.

    - "root": rows F, of which F^T F is such a sum: F grows with the root of the number of samples;
    - "constant": it does not grow with the number, like a mean, or sums over a memory of bounded size;
    - "weighted": a mean too, which counts as much as the numbers that are sent beside it say.

    >>> NoSum((4, 6), "root") == (4, 6)
    True
    """

    amount: Amount

    def __new__(cls, shape: tuple[int, ...], amount: Amount) -> "NoSum":
        """The shape with its amount."""
        declared = super().__new__(cls, shape)
        declared.amount = amount
        return declared


def gram_layouts(shapes: Shapes) -> dict[str, GramLayout]:
    """The arrays that are declared to be Gram matrices, each with its layout."""
    return {name: shape.layout for name, shape in shapes.items() if isinstance(shape, GramShape)}


@dataclass(frozen=True)
class Task:
    """A block of consecutive class positions: inside a run a class is known by its position in the class order."""

    index: int
    """Position among the tasks, from 0."""
    first: int
    """The task's first class position."""
    size: int
    """Number of classes."""

    @property
    def seen(self) -> int:
        """Number of classes seen up to and including this task."""
        return self.first + self.size

    @property
    def positions(self) -> range:
        """The class positions of this task."""
        return range(self.first, self.seen)


@dataclass(frozen=True)
class Backbone:
    """A description of the frozen backbone: all that a method may know without holding it."""

    width: int
    """Length of a feature vector."""
    linears: Shapes
    """Linear layer -> (out, in), in the order of the forward pass."""
    blocks: int = 0
    """Number of transformer blocks."""
    patch: tuple[int, int] = (0, 0)
    """Height and width of a patch, in pixels."""
    grid: tuple[int, int] = (0, 0)
    """Number of patches of an image, down and across."""
    class_token: bool = True
    """Whether the first token is a class token."""
    layer_tokens: bool = True
    """Whether the network hands out the tokens of single layers (`fcil.method.tokens`)."""
    no_prompts: str = ""
    """Why no tokens can be put beside the network's own; empty where they can."""
    parameters: Shapes = field(default_factory=dict, repr=False)
    """Every parameter of the network -> its shape, in the network's order."""
    weight: Callable[[str], np.ndarray] | None = field(default=None, compare=False, repr=False)
    """Linear layer -> its frozen weight, (out, in) float32. The weights' file is read when this is first called, and
    again for a layer that stands before the last one asked for: ask in the order of `linears`. None: not known."""
    head_start: HeadStart = "linear"
    """How the head rows of new classes begin, for every method alike (`fcil.method.head.new_rows`)."""


@dataclass(frozen=True)
class Phase:
    """One exchange with the clients."""

    index: int
    """Position in the whole run, from 0."""
    kind: Kind
    task: Task
    round: int
    """Position within the task, from 1; a report after R rounds of training has round R + 1."""
    seed: int
    phases_left: int = 0
    """Phases of this task that follow: what tells several reports apart."""
    tasks_left: int = 0
    """Tasks that follow: a schedule that goes on through tasks is stretched over them."""
    clients: int = 0
    """Clients that hold samples of this task, whether or not they are asked in this phase; 0 where not known."""
    examples: int = 0
    """Samples of this task that these clients hold together; 0 where not known."""

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """The randomness of this phase for one purpose, for example `("batches", client)`."""
        return generator(self.seed, self.task.index, self.round, *purpose)

    def __str__(self) -> str:
        return f"task {self.task.index + 1}, {'round' if self.kind == 'train' else 'report'} {self.round}"


@dataclass(frozen=True)
class Broadcast:
    """The message that all clients of a phase receive."""

    arrays: Arrays
    """Weights that make the model clients start from."""
    references: Arrays = field(default_factory=dict)
    """Read-only arrays beside them: a teacher, an anchor, earlier tasks' factors. Sent once to each client."""
    patches: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Reference -> (an earlier reference, bytes): a client that holds the earlier one is sent only that many bytes."""


@dataclass(frozen=True)
class ClientUpdate:
    """The reply of one client: every array is float32 or float64, finite, and declared by `Method.local`."""

    client: int
    phase: int
    """`Phase.index` of the phase that it answers."""
    num_examples: int
    """Training samples the client holds in this task."""
    arrays: Arrays
    """The arrays that trained, under the names of the broadcast."""
    statistics: Arrays = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures for the records: loss, seconds, images."""
