"""A ClientApp whose clients misbehave as `faults.json` beside their store says: {"phase": {"client": "what"}}."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.clientapp import ClientApp

from fcil.exchange.flower import handlers, messages, reply_messages

app = ClientApp()


def _fault(work):
    path = Path(work.job.store).parent / "faults.json"
    if not work.job.store or not path.exists():
        return None
    return json.loads(path.read_text()).get(str(work.phase.index), {}).get(str(work.clients[0]))


def _before(fault, work):
    if fault == "raises":
        raise RuntimeError("boom")
    if fault == "sleeps":
        time.sleep(600)
    if fault == "dies":
        os._exit(1)
    if fault == "dies once":
        mark = Path(work.job.store).parent / "died"
        if not mark.exists():
            mark.touch()
            os._exit(1)


def _changed(fault, update):
    if fault is None or not update.arrays:
        return update
    name, a = next(iter(update.arrays.items()))
    changes = {
        "nan": {"arrays": {**update.arrays, name: np.full_like(a, np.nan)}},
        "shape": {"arrays": {**update.arrays, name: a[:-1]}},
        "type": {"arrays": {**update.arrays, name: a.astype(np.int32)}},
        "missing": {"arrays": {n: b for n, b in update.arrays.items() if n != name}},
        "count": {"num_examples": update.num_examples + 1000},
        "stale": {"phase": update.phase + 1},
        "impostor": {"client": update.client - 1},
    }
    return replace(update, **changes.get(fault, {}))


def _answer(message, context):
    work = messages.read_work(message.content)
    fault = _fault(work)
    _before(fault, work)
    if fault == "raises in its work":
        with mock.patch("fcil.exchange.worker.run_client", side_effect=RuntimeError("boom")):
            return handlers.train(message, context)
    reply = handlers.train(message, context)
    if work.summed:
        return reply
    content = reply_messages.write_update(_changed(fault, reply_messages.read_update(reply.content)))
    if fault == "garbage":
        content["reply"] = ConfigRecord({**content["reply"], "index": "[[1,"})
    if fault == "empty":
        del content["arrays"]
    return Message(content, reply_to=message)


app.train()(_answer)
app.query("report")(_answer)
app.query("hello")(handlers.hello)
app.evaluate("shard")(handlers.evaluate)
