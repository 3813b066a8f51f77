"""The ClientApp that Flower starts. On a SuperNode it hands each message to a process that stays, else it works itself.

A SuperNode starts a new process for every message, which would import torch and load data and backbone each time. So
this module imports nothing heavy: that process only passes the message on (`resident_call`) to the node's resident
process (`resident`). Flower's simulation keeps its processes, and works in them (`handlers`).
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fcil.exchange.flower.internals import for_one_message

__all__ = ["app"]

app = ClientApp()


def _answer(message: Message, context: Context) -> Message:
    """Answer a message of any kind, here or in the node's resident process."""
    if for_one_message():
        from fcil.exchange.flower import resident_call

        if resident_call.wanted(context.node_config):
            return resident_call.answer(message, context)
    from fcil.exchange.flower import handlers

    return handlers.app(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a training round."""
    return _answer(message, context)


@app.query("report")
def report(message: Message, context: Context) -> Message:
    """Answer a report at a task's end."""
    return _answer(message, context)


@app.evaluate("shard")
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on one share of the batches of test images."""
    return _answer(message, context)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which client's data this node holds."""
    return _answer(message, context)


@app.query("secure")
def secure(message: Message, context: Context) -> Message:
    """Take this node's client's next step in a secure sum."""
    return _answer(message, context)
