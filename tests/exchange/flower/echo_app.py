"""A ClientApp that answers at once with its message's number, but misbehaves where the message says so."""

import os
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def echo(message, context):
    own = message.content["own"]
    if own["fault"] == "dies":
        os._exit(1)
    if own["fault"] == "raises":
        raise RuntimeError("boom")
    if own["fault"] == "hangs":
        time.sleep(600)
    return Message(RecordDict({"own": ConfigRecord({"number": own["number"], "pid": os.getpid()})}), reply_to=message)
