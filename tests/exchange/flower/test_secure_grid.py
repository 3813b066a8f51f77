"""Secure sums over nodes: the bits of the inline ones, dropouts at every step, and nothing unmasked at the server."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from flower_runs import InProcess, finish, refused, settings
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fcil.arrays import nbytes
from fcil.engine.simulation import prepare
from fcil.errors import ConfigError, MergeError, RunError
from fcil.exchange.flower import client_app, handlers, internals, messages, reply_messages, secure_messages
from fcil.exchange.flower.exchange import FlowerExchange
from fcil.exchange.flower.internals import content_bytes, content_of, error_reply
from fcil.exchange.flower.secure_answers import UNMASKED, check_process, of_run
from fcil.exchange.flower.strategy import FcilStrategy
from fcil.exchange.inline import Inline
from fcil.exchange.secure import secure_sums
from fcil.exchange.secure_party import GONE, Parties, Sum
from fcil.exchange.worker import Worker
from fcil.secure import Revealed, SecureClient, encode
from fcil.server.loop import ask, step
from fcil.server.plan import initial_progress

STEPS = (secure_messages.KEYS, secure_messages.SHARES, secure_messages.MASK, secure_messages.ARRIVED)


def config(method="ridge", **run):
    table = {"ridge": {"name": "ridge", "penalty": 1.0}}.get(method, {"name": method, "rank": 2})
    run = {"device": "cpu", "evaluation_batch": 16, "secure_sums": True, **run}
    return settings(method=table, train={"rounds": 1, "epochs": 1}, run=run)


@cache
def session(method="ridge", **run):
    return prepare(config(method, **run))


@pytest.fixture(autouse=True)
def _new_nodes(monkeypatch):
    monkeypatch.setattr(handlers, "_parties", Parties())


def step_of(message):
    return message.content["secure"]["step"] if "secure" in message.content else ""


class Recording(InProcess):
    """Nodes whose messages all pass through bytes, which are kept; `fault(step, client, answer)` may change a reply."""

    def __init__(self, fault=None, **options):
        super().__init__(client_app.app, **options)
        self.fault, self.told, self.asked = fault, [], []

    def _answer(self, message):
        self.asked.append((step_of(message), content_bytes(message.content)))
        client = self.partitions[message.metadata.dst_node_id]

        def answer():
            return InProcess._answer(self, message)

        reply = self.fault(step_of(message), client, message, answer) if self.fault else answer()
        if reply.has_error():
            self.told.append((client, reply.error.reason.encode()))
            return reply
        written = content_bytes(reply.content)
        self.told.append((client, written))
        return Message(content_of(written), reply_to=message)


def over(fault=None, method="ridge", run=None, **options):
    return FlowerExchange(Recording(fault, **options), config(method, **(run or {})), node_seconds=0.1)


def first(exchange, method="ridge", **run):
    events, plan = [], session(method, **run).plan
    return step(plan, initial_progress(plan), exchange, events.append), events


@cache
def inline_without(*clients):
    """The first phase of the inline run when these clients have no update."""

    class Without(Worker):
        def work(self, phase, broadcast, client):
            if client in clients:
                raise RuntimeError("away")
            return super().work(phase, broadcast, client)

    plan = session(on_client_error="skip").plan
    return step(plan, initial_progress(plan), Inline(Without(plan.config, plan.method)), lambda event: None).sha256()


@pytest.mark.parametrize("method", ["ridge", pytest.param("lorm", marks=pytest.mark.slow)])
def test_a_run_over_nodes_ends_in_the_bits_of_inline_secure_sums(method):
    alone = session(method)
    expected = finish(Inline(alone.worker), alone.plan)
    exchange = over(method=method, seed=3)
    done = finish(exchange, alone.plan)
    assert done.sha256() == expected.sha256()
    assert done.correct == expected.correct
    assert done.totals["upload_bytes"] == expected.totals["upload_bytes"]
    assert done.ledger == expected.ledger
    each = [name for name, _ in exchange.grid.asked if name]
    assert {name: each.count(name) for name in STEPS} == dict.fromkeys(STEPS, 3 * len(alone.plan.phases))


# ---- what the server's process receives ------------------------------------------------------------------------------


def pieces(a):
    """Eight bytes from every number of an array on, without those of round numbers, which are in many places."""
    text = np.ascontiguousarray(a).tobytes()
    every = {text[i : i + 8] for i in range(0, len(text) - 7, a.itemsize)}
    return {piece for piece in every if len(set(piece)) > 5}


def unmasked_forms(update, sums):
    """Every form in which one client's numbers could be sent: arrays, sums, either precision, or fixed point."""
    for a in [*update.arrays.values(), *update.statistics.values(), *sums.values()]:
        yield from pieces(np.asarray(a, np.float32))
        yield from pieces(np.asarray(a, np.float64))
    for a in sums.values():
        yield from pieces(encode(np.asarray(a, np.float64).reshape(-1))[:, 1])  # what follows the point


def found(sought, text):
    """How many of these pieces are anywhere in a text."""
    wanted = np.frombuffer(b"".join(sorted(sought)), np.uint64)
    whole = text + bytes(8)
    views = (np.frombuffer(whole[at : at + len(text) // 8 * 8], np.uint64) for at in range(8))
    return len(np.unique(np.concatenate([view[np.isin(view, wanted)] for view in views])))


@pytest.mark.parametrize("method", ["ridge", "fedavg"])
def test_no_unmasked_update_reaches_the_server(method):
    """All bytes that nodes send are recorded, and none of a single client's numbers, in any form, is among them."""
    exchange = over(method=method)
    first(exchange, method)
    here = session(method)
    request = ask(here.plan, initial_progress(here.plan))
    sought, plain = {}, []
    for client in request.num_examples:
        update = here.worker.work(request.phase, request.broadcast, client)
        partial = here.worker.work_group(request.phase, request.broadcast, (client,))
        plain += [
            content_bytes(reply_messages.write_update(update)),
            content_bytes(reply_messages.write_partial(partial)),
        ]
        for piece in unmasked_forms(update, partial.sums):
            sought.setdefault(piece, set()).add(client)
    single = {piece for piece, clients in sought.items() if len(clients) == 1}
    assert len(single) > 1000
    assert found(single, b"".join(plain)) > 0.3 * len(single)  # what is not masked is found
    assert found(single, b"".join(content for _, content in exchange.grid.told)) == 0


def test_nothing_secret_is_in_what_the_server_passes_on_or_receives(monkeypatch):
    """Private keys, seeds of own masks, and unlocked shares: of the last only those that are revealed."""
    drawn = []

    class Watched(SecureClient):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            drawn.append(self)

    monkeypatch.setattr("fcil.exchange.secure_party.SecureClient", Watched)
    exchange = over()
    first(exchange)
    everything = b"".join(text for _, text in [*exchange.grid.told, *exchange.grid.asked])
    assert len(drawn) == 3
    for party in drawn:
        assert party.keys.pair in everything
        for secret in (party._pair, party._box, party._seed):
            assert secret not in everything
        for seed, pair in party._held.values():
            assert seed in everything  # all have arrived, and of each the share of its own mask's seed is revealed
            assert pair not in everything


@pytest.mark.parametrize("kind", ["train", "report"])
def test_a_node_sends_no_update_without_masks(kind):
    exchange = over()
    plan = session().plan
    request = ask(plan, initial_progress(plan))
    for groups in ((), ((1,),)):
        contents = messages.request_contents(replace(request, groups=groups), exchange.job)
        node = next(node for node, client in exchange.grid.partitions.items() if client == 1)
        message = Message(contents[1], node, {"train": messages.TRAIN, "report": messages.REPORT}[kind])
        internals.number(message, "1")
        reply = exchange.grid._answer(message)
        assert reply_messages.read_failure(reply.content).reason == UNMASKED


# ---- dropouts --------------------------------------------------------------------------------------------------------


def away(at, lost):
    def fault(name, client, message, answer):
        return error_reply(message, 1, "Node Unavailable") if name == at and client in lost else answer()

    return fault


@pytest.mark.parametrize("at", STEPS)
def test_a_client_that_is_lost_at_any_step_costs_its_update_and_nothing_else(at):
    progress, events = first(over(away(at, {1})))
    if at == secure_messages.ARRIVED:  # its numbers are in the sum, and the others can undo its mask
        assert refused(events) == {}
        assert progress.sha256() == inline_without()
    else:
        assert refused(events) == {1: "Node Unavailable"}
        assert progress.sha256() == inline_without(1)


@pytest.mark.parametrize("at", STEPS[:3])
def test_of_too_few_no_sum_is_had_and_no_share_is_revealed(at):
    exchange = over(away(at, {0, 1}))
    with pytest.raises(RunError, match="0 of 3 clients sent a good update"):
        first(exchange)
    assert secure_messages.ARRIVED not in {name for name, _ in exchange.grid.asked}


def test_nor_of_fewer_than_the_run_needs():
    """The phase would be asked for again, and the two sums would differ by one client's numbers."""
    exchange = over(away(secure_messages.MASK, {1}), run={"min_clients": 3})
    with pytest.raises(RunError, match="0 of 3 clients"):
        first(exchange, min_clients=3)
    assert secure_messages.ARRIVED not in {name for name, _ in exchange.grid.asked}


def copied_keys(kinds):
    """Client 2 tells the first of these keys of client 1 as the second of its own."""
    told = {}

    def fault(name, client, message, answer):
        reply = answer()
        if name != secure_messages.KEYS:
            return reply
        told[client] = dict(reply.content["secure-reply"])
        entries = {**told[client], kinds[1]: told[1][kinds[0]]} if client == 2 else told[client]
        return Message(RecordDict({**reply.content, "secure-reply": ConfigRecord(entries)}), reply_to=message)

    return fault


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("kinds", [("pair", "pair"), ("box", "box"), ("box", "pair")])
def test_two_clients_with_one_public_key_are_refused_by_the_server(kinds, ours):
    """By name, before anybody is told keys; of three clients too few are left then."""
    grid = OurWorkers(copied_keys(kinds)) if ours else None
    exchange, events = FlowerExchange(grid, config()) if ours else over(copied_keys(kinds)), []
    with pytest.raises(RunError, match="0 of 3 clients"):
        step(session().plan, initial_progress(session().plan), exchange, events.append)
    reasons = refused(events)
    assert all("clients 1 and 2 told the same public key" in reasons[client] for client in (1, 2))
    assert reasons[0] == "secure sums: 0 of 3 clients have delivered, 2 are needed"
    assert {name for name, _ in exchange.grid.asked if name} == {secure_messages.KEYS}


class OurWorkers(Recording):
    """Stands for a grid of ours: one worker for all clients, whose secrets end with it."""

    workers, pinned = 1, False

    def __init__(self, fault):
        super().__init__(fault)
        self.partitions = {1: 0, 2: 1, 3: 2}

    def stream(self, sent, *, timeout=None):
        yield from self.send_and_receive(sent)

    def close(self):
        pass


@pytest.mark.parametrize(("code", "times"), [(internals.LATE, 1), (internals.CRASHED, 2)])
def test_a_client_that_takes_its_worker_along_is_not_asked_again(code, times):
    """It would take the secrets of the worker's other clients along in every attempt."""
    asked = []

    def fault(name, client, message, answer):
        if name != secure_messages.MASK or client != 1:
            return answer()
        asked.append(client)
        handlers._parties._open.clear()
        return error_reply(message, code, "its worker was ended")

    exchange = FlowerExchange(OurWorkers(fault), config())
    progress, events = first(exchange)
    assert len(asked) == times
    assert refused(events) == {1: "its worker was ended"}
    assert progress.sha256() == inline_without(1)


def test_no_share_is_asked_for_where_an_exception_stops_the_run(monkeypatch):
    work = Worker.work

    def failing(self, phase, broadcast, client):
        if client == 1:
            raise RuntimeError("boom")
        return work(self, phase, broadcast, client)

    monkeypatch.setattr(Worker, "work", failing)
    exchange = over()
    with pytest.raises(RunError, match="client 1 raised RuntimeError: boom"):
        first(exchange)
    assert secure_messages.ARRIVED not in {name for name, _ in exchange.grid.asked}


def test_the_hash_of_a_run_does_not_depend_on_where_its_files_lie():
    def hashed(method="ridge.py", root="/a", sha="1", **run):
        table = json.loads(messages.Job.of(config(**run)).config)
        table["method"] |= {"name": f"{method}:Ridge", "adapter": f"{method}:Adapter"}
        table["data"] |= {"root": root, "cache": f"{root}/cache"}
        table["model"] |= {"weights": f"{root}/weights.safetensors"}
        return of_run(messages.Job(json.dumps(table), sources=json.dumps([[method, method, sha]])))

    assert hashed() == hashed("/elsewhere/ridge.py", "/b") == hashed(client_timeout=9.0)
    assert len({hashed(), hashed("other.py"), hashed(sha="2"), hashed(seed=5)}) == 4


def test_where_too_few_reveal_no_sum_is_had():
    with pytest.raises(RunError, match="0 of 3 clients"):
        first(over(away(secure_messages.ARRIVED, {0, 1})))


def test_an_exception_in_a_clients_code_stops_the_run_with_its_traceback(monkeypatch):
    def run(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr("fcil.exchange.worker.run_client", run)
    with pytest.raises(RunError, match="client 0 raised RuntimeError: boom"):
        first(over())


def test_a_phase_that_is_asked_for_again_is_had_for_the_same_clients_only():
    """As after a crash of the server: the same sum again; one client fewer would tell that client's numbers."""
    whole, _ = first(over())
    again, _ = first(over())
    assert again.sha256() == whole.sha256()
    with pytest.raises(RunError, match="0 of 3 clients"):
        first(exchange := over(away(secure_messages.MASK, {1})))
    assert any(b"shares were revealed before" in text for _, text in exchange.grid.told)
    other, events = first(over(away(secure_messages.MASK, {1}), run={"seed": 1}), seed=1)
    assert list(refused(events)) == [1]
    assert other.sha256() != whole.sha256()


# ---- workers of ours, any of which could work for any client ---------------------------------------------------------


class Workers(Grid):
    """Two worker processes, each with secrets of its own; `kill(step)` is called before a step and may end one."""

    workers, pinned = 2, False

    def __init__(self, monkeypatch, kill=lambda grid, name: None):
        internals.identify()
        self.monkeypatch, self.kill = monkeypatch, kill
        self.parties, self.homes, self.sums = [Parties(), Parties()], {}, 0

    def settle(self, nodes):
        self.sums += 1
        self.homes = {node: i % 2 for i, node in enumerate(nodes)}

    def stream(self, messages, *, timeout=None):
        sent = list(messages)
        for i, message in enumerate(sent):
            internals.number(message, f"{self.sums} {i}")
        for message in sent:
            name, node = step_of(message), message.metadata.dst_node_id
            if name:
                self.kill(self, name)
                self.monkeypatch.setattr(handlers, "_parties", self.parties[self.homes[node]])
            yield handlers.app(message, Context(1, node, {}, RecordDict(), {}))

    def close(self):
        pass

    get_node_ids = run = set_run = create_message = push_messages = pull_messages = send_and_receive = None


@pytest.mark.parametrize("at", [None, *STEPS[1:]])
def test_a_worker_that_ends_with_its_clients_secrets_changes_no_bit(monkeypatch, at):
    """The sum is begun anew with other secrets; also where one has ended before all had revealed their shares."""
    ended = []

    def kill(grid, name):
        if name == at and not ended:
            ended.append(name)
            grid.parties[:] = [Parties(), grid.parties[1]]

    grid = Workers(monkeypatch, kill)
    progress, events = first(FlowerExchange(grid, config(exchange="ray")))
    assert refused(events) == {}
    assert progress.sha256() == inline_without()
    assert grid.sums == (1 if at is None else 2)


def test_workers_that_end_all_the_time_cost_the_updates(monkeypatch):
    def kill(grid, name):
        if name == secure_messages.MASK:
            grid.parties[:] = [Parties(), Parties()]

    grid = Workers(monkeypatch, kill)
    with pytest.raises(RunError, match="0 of 3 clients"):
        first(FlowerExchange(grid, config(exchange="ray")))
    assert grid.sums == 3


# ---- replies and requests that do not fit ----------------------------------------------------------------------------


def changed(message, answer, record, **values):
    reply = answer()
    entries = {**reply.content[record], **values}
    return Message(RecordDict({**reply.content, record: ConfigRecord(entries)}), reply_to=message)


BAD = {
    "a short key": (STEPS[0], lambda m, a: changed(m, a, "secure-reply", pair=b"x"), "32 bytes"),
    "a weak key": (STEPS[0], lambda m, a: changed(m, a, "secure-reply", box=bytes(32)), "public keys are of no use"),
    "no share for one": (STEPS[1], lambda m, a: changed(m, a, "secure-reply", clients=[0], boxes=[bytes(160)]),
                         "not one for each"),
    "a share twice": (STEPS[1], lambda m, a: changed(m, a, "secure-reply", clients=[0, 0], boxes=[b"", b""]),
                      "once each"),
    "numbers of another": (STEPS[2], lambda m, a: numbers(m, a, client=2), "not about itself"),
    "a count of its own": (STEPS[2], lambda m, a: numbers(m, a, examples=999), "claims 999 training samples"),
    "too few numbers": (STEPS[2], lambda m, a: numbers(m, a, words=lambda w: w[1:]), "are not"),
    "numbers of another type": (STEPS[2], lambda m, a: numbers(m, a, words=np.float64), "are not"),
    "nothing": (STEPS[2], lambda m, a: Message(RecordDict(), reply_to=m), "malformed reply"),
}  # fmt: skip


def numbers(message, answer, client=None, examples=None, words=None):
    partial = reply_messages.read_partial(answer().content)
    (member,) = partial.members
    member = replace(member, client=client if client is not None else member.client)
    member = replace(member, num_examples=examples or member.num_examples)
    sums = {name: words(a) if words else a for name, a in partial.sums.items()}
    return Message(reply_messages.write_partial(replace(partial, members=(member,), sums=sums)), reply_to=message)


@pytest.mark.parametrize("kind", BAD)
def test_a_reply_that_does_not_fit_makes_a_dropout(kind):
    at, bad, reason = BAD[kind]

    def fault(name, client, message, answer):
        return bad(message, answer) if name == at and client == 1 else answer()

    progress, events = first(over(fault))
    assert list(refused(events)) == [1]
    assert reason in refused(events)[1]
    assert progress.sha256() == inline_without(1)


def test_shares_that_do_not_belong_together_give_no_sum():

    def fault(name, client, message, answer):
        if name != secure_messages.ARRIVED or client != 1:
            return answer()
        told = secure_messages.read_revealed(answer().content)
        other = Revealed(dict.fromkeys(told.own_mask, bytes(66)), {})
        return Message(secure_messages.write_revealed(other), reply_to=message)

    with pytest.raises(RunError, match="0 of 3 clients"):
        first(over(fault))


def test_replies_that_come_twice_count_once():
    progress, events = first(over(repeat=2))
    assert refused(events) == {}
    assert progress.sha256() == inline_without()


@pytest.mark.parametrize("change", [
    {"step": "reveal all"}, {"session": "text"}, {"threshold": True}, {"client": -1.0}, {"step": 3},
])  # fmt: skip
def test_a_malformed_step_is_a_value_error(change):
    job = messages.Job.of(config())
    phase = session().plan.phases[0]
    content = secure_messages.with_step(messages.phase_content(phase, job), STEPS[0], Sum("", 0, b"s", 2), 1)
    assert secure_messages.read_step(content).of == Sum("", 0, b"s", 2)
    content["secure"] = ConfigRecord({**content["secure"], **change})
    with pytest.raises(ValueError, match=r"record 'secure' has no|is no step"):
        secure_messages.read_step(content)


def test_both_secrets_of_one_client_are_not_taken():
    told = Revealed({1: bytes(66)}, {1: bytes(66)})
    with pytest.raises(ValueError, match="both secrets"):
        secure_messages.read_revealed(secure_messages.write_revealed(told))


# ---- a client's side -------------------------------------------------------------------------------------------------


def parties(n=3, threshold=2, run="run"):
    held, of = {client: Parties() for client in range(n)}, Sum(run, 4, b"session", threshold)
    keys = {client: each.keys(of, client) for client, each in held.items()}
    return held, of, keys


def test_secrets_are_drawn_once_for_a_sum_and_end_with_it():
    held, of, keys = parties()
    assert held[0].holds()
    with pytest.raises(MergeError, match="drawn once"):
        held[0].keys(of, 0)
    for changed_sum in (replace(of, session=b"x"), replace(of, threshold=3), replace(of, phase=5)):
        with pytest.raises(MergeError) as error:
            held[0].share(changed_sum, 0, keys)
        assert str(error.value) == GONE
    assert held[0].share(of, 0, keys).keys() == {1, 2}
    later = replace(of, session=b"later")
    assert held[0].keys(later, 0) != keys[0]
    with pytest.raises(MergeError, match="not here"):
        held[0].reveal(of, 0, {0, 1})


def test_a_sum_of_one_is_refused_by_the_client_and_before_the_run():
    held, of, keys = parties(1, 1)
    with pytest.raises(MergeError, match="two are needed"):
        held[0].share(of, 0, keys)
    alone = settings(run={"secure_sums": True}, partition={"clients": 1}, method={"name": "ridge"})
    with pytest.raises(ConfigError, match=r"run\.secure_sums: .* asks 1 client"):
        prepare(alone)


def test_weak_keys_of_others_are_refused():
    held, of, keys = parties()
    with pytest.raises(MergeError, match="public keys of client 2"):
        held[0].share(of, 0, {**keys, 2: replace(keys[2], pair=bytes(32))})


def test_a_process_for_one_message_takes_no_part(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/flwr-clientapp"])
    with pytest.raises(ConfigError, match="resident = false"):
        check_process(session().worker)
    check_process(session(secure_sums=False).worker)


def test_where_no_process_keeps_a_clients_secrets_it_is_refused():
    class InMemoryGrid(InProcess):
        """Named as the grid of Flower's simulation."""

    with pytest.raises(ConfigError, match="Flower's simulation"):
        FlowerExchange(InMemoryGrid(handlers.app), config(), node_seconds=0.1)
    with pytest.raises(ConfigError, match=r"FcilStrategy\.start"):
        FcilStrategy(session().plan).configure_train(1, None, None, None)


def test_inline_and_plain_bytes_are_those_of_the_messages():
    """The bytes that the records count are those of the payload, without names and settings."""
    here = session()
    partial = secure_sums(here.worker, ask(here.plan, initial_progress(here.plan)))
    exchange = over()
    first(exchange)
    sent = sum(len(text) for client, text in exchange.grid.told)
    introductions = sum(len(json.dumps(str(node))) for node in exchange.introductions.values())
    assert nbytes(partial.sums) < partial.nbytes < sent < partial.nbytes + introductions + 20_000
