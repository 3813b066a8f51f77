"""The contract: what a client trains and reports, and how the server merges. All that a method's author must read.

A method is a frozen dataclass whose fields are its settings. It has two halves in one file:

    server half                                      client half
    init, begin, broadcast, merge, deploy            adapter, local, loss, client_begin, client_end, scores
    pure functions over named arrays                 declarations, and functions of the model

A run walks through the phases of each task. In a *train* phase clients train what `local` names and may report
statistics; in a *report* phase they only report. Every phase is the same four steps:

    broadcast(state, phase) -> clients do local(phase) -> merge(state, phase, updates) -> deploy(state, phase)

Three sets of weights are distinct on purpose: what the server keeps (`state`), what clients start from (`broadcast`)
and what is evaluated (`deploy`). The server half is pure: states go in and come out, inputs are not mutated, and all
randomness is `phase.generator(...)`.

    phases            Task, Phase, Broadcast, ClientUpdate: what passes between server and clients
    local             Local, Pass, Statistic, Adapter: what a method declares of clients' work
    client            Client, Step, Model: what a method's own code is given there
    base, averaging   Method, the base of all; Averaging, of those that average what trains
    state, head       the state's groups, and the names of the head's rows
    groups, code      what is refused: groups under names that are taken, merges that leave something out
    tokens            features made of tokens of several layers
"""

from fcil.arrays import Arrays, State
from fcil.method.averaging import EXAMPLES, Averaging
from fcil.method.base import SCORES, Method
from fcil.method.client import Client, Model, Step, Store
from fcil.method.local import Adapter, Collector, Computed, Draw, Local, Pass, Statistic, as_broadcast, local_model
from fcil.method.phases import (
    REPORT,
    TRAIN,
    Amount,
    Backbone,
    Broadcast,
    ClientUpdate,
    GramLayout,
    GramShape,
    Kind,
    NoSum,
    Phase,
    Shapes,
    Stream,
    Task,
    gram_layouts,
)
from fcil.method.server_optimizer import ServerOptimizer
from fcil.method.state import Modules, of_task, split_tasks
from fcil.method.tokens import TOKENS, Tokens

__all__ = [
    "EXAMPLES", "REPORT", "SCORES", "TOKENS", "TRAIN", "Adapter", "Amount", "Arrays", "Averaging", "Backbone",
    "Broadcast", "Client", "ClientUpdate", "Collector", "Computed", "Draw", "GramLayout", "GramShape", "Kind", "Local",
    "Method", "Model", "Modules", "NoSum", "Pass", "Phase", "ServerOptimizer", "Shapes", "State", "Statistic", "Step",
    "Store", "Stream", "Task", "Tokens", "as_broadcast", "gram_layouts", "local_model", "of_task", "split_tasks",
]  # fmt: skip
