"""Gathers numbers of correct answers over a Flower grid: of shares of the test images, or of sites with their own."""

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Literal

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fcil.errors import RunError
from fcil.exchange.flower import messages, reply_messages
from fcil.exchange.flower.settling import reason_of, replies
from fcil.method import Task

__all__ = ["evaluated"]


def _correct(reply: Message, groups: int, places: int, site: int | None) -> np.ndarray | str:
    """Read numbers of correct answers, or the reason why there are none; a site may only tell its own."""
    if reply.has_error():
        return reason_of(reply)
    try:
        correct = reply_messages.read_correct(reply.content, groups, places)
    except ValueError as error:
        return str(error)
    if site is not None and correct.sum() != correct[site].sum():
        return "it tells correct answers of other sites"
    return correct


def _complaint(whose: str, count: int, reasons: Mapping[int, str], away: Set[int]) -> str:
    """Say who did not answer, why, and what to do: start a node that is away, mend what failed at one that was asked.

    Args:
        count: how many were needed.
        reasons: those without an answer -> why.
        away: those of them that could not be asked.
    """
    complaints = []
    for wording, numbers in (("could not be asked", away), ("failed twice", reasons.keys() - away)):
        if numbers:
            first = min(numbers)
            complaints.append(
                f"{len(numbers)} of {count} {whose}s of the evaluation {wording}, {whose} {first}: {reasons[first]}"
            )
    cure = "mend the cause and the same command goes on with the run"
    if away:
        cure = (
            f"an accuracy needs all {whose}s, whatever run.min_clients is; start the nodes that are away and the same "
            "command goes on with the run, with --set run.wait_for_clients=SECONDS it waits for them. A run with "
            'data.test_at = "server" needs no node to evaluate'
        )
    return f"{'; '.join(complaints)}; {cure}"


def evaluated(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    task: Task,
    address: Callable[[Iterable[int]], dict[int, int]],
    whose: Literal["share", "site"],
    places: int,
    groups: int,
    seconds: float,
    why_away: Callable[[int], str],
) -> np.ndarray:
    """Add up correct answers, (places, groups); who fails is asked once more.

    Args:
        contents: number of a share of the batches, or of a site -> the message to who evaluates it.
        address: the numbers still missing -> the node to ask for each.
        whose: what the numbers are of.
        places: sites that evaluate on their own, or 1.
        groups: classes or tasks seen, by which correct answers are told.
        seconds: time for each to answer.
        why_away: the number of one that has no node -> the reason.

    Raises:
        RunError: somebody failed twice, or could not be asked.
    """
    total, reasons = np.zeros((places, groups), np.int64), dict.fromkeys(contents, "")
    asked_clients, away = set[int](), set[int]()
    for _ in range(2):
        sent = {k: Message(contents[k], node, messages.EVALUATE) for k, node in address(sorted(reasons)).items()}
        away = reasons.keys() - sent.keys()
        reasons |= {k: f"{reasons[k]}, then {why_away(k)}" if k in asked_clients else why_away(k) for k in away}
        asked_clients |= sent.keys()
        reasons |= dict.fromkeys(sent, f"no reply within {seconds:g} seconds (run.client_timeout)")
        for reply in replies(grid, list(sent.values()), seconds):
            k = next(k for k, m in sent.items() if m.metadata.message_id == reply.metadata.reply_to_message_id)
            correct = _correct(reply, groups, places, k if whose == "site" else None)
            if isinstance(correct, str):
                reasons[k] = correct
            elif k in reasons:
                del reasons[k]
                total += correct
    if reasons:
        raise RunError(f"task {task.index + 1}: {_complaint(whose, len(contents), reasons, away)}")
    return total
