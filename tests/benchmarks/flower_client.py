"""The client of `bench_flower.py` as a Flower app, in a file of its own so that what it keeps outlives a message."""

import json
import os
from functools import cache

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fcil.config import from_table
from fcil.exchange.worker import Worker
from fcil.method import Broadcast, Phase

app = ClientApp()


@cache
def worker() -> Worker:
    """The model and the data, loaded once for each process."""
    return Worker.of(from_table([("benchmark", json.loads(os.environ["BENCH_FLOWER"]))]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as `fcil run` does, from the arrays of the message."""
    mine, number = worker(), int(message.content["config"]["server-round"])
    phase = Phase(number - 1, "train", mine.scenario.tasks[0], number, mine.config.run.seed)
    arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
    update = mine.work(phase, Broadcast(arrays), int(context.node_config["partition-id"]))
    metrics = MetricRecord({"num-examples": update.num_examples})
    trained = ArrayRecord({name: Array(array) for name, array in (arrays | dict(update.arrays)).items()})
    content = RecordDict({"arrays": trained, "metrics": metrics})
    return Message(content=content, reply_to=message)
