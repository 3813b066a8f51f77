"""Gathers numbers of correct answers over a Flower grid: of shares of the test images, or of sites with their own."""

from collections.abc import Callable, Iterable, Mapping
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


def evaluated(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    task: Task,
    address: Callable[[Iterable[int]], dict[int, int]],
    whose: Literal["share", "site"],
    places: int,
    groups: int,
    seconds: float,
) -> np.ndarray:
    """Add up correct answers, (places, groups); who fails is asked once more.

    Args:
        contents: number of a share of the batches, or of a site -> the message to who evaluates it.
        address: the numbers still missing -> the node to ask for each.
        whose: what the numbers are of.
        places: sites that evaluate on their own, or 1.
        groups: classes or tasks seen, by which correct answers are told.
        seconds: time for each to answer.

    Raises:
        RunError: somebody failed twice.
    """
    total, reasons = np.zeros((places, groups), np.int64), dict.fromkeys(contents, "not connected")
    for _ in range(2):
        sent = {k: Message(contents[k], node, messages.EVALUATE) for k, node in address(sorted(reasons)).items()}
        reasons |= dict.fromkeys(sent, f"no reply within {seconds:g} seconds")
        for reply in replies(grid, list(sent.values()), seconds):
            k = next(k for k, m in sent.items() if m.metadata.message_id == reply.metadata.reply_to_message_id)
            correct = _correct(reply, groups, places, k if whose == "site" else None)
            if isinstance(correct, str):
                reasons[k] = correct
            elif k in reasons:
                del reasons[k]
                total += correct
    if reasons:
        number, reason = min(reasons.items())
        raise RunError(
            f"task {task.index + 1}: {len(reasons)} of {len(contents)} {whose}s of the evaluation failed twice, "
            f"{whose} {number}: {reason}; mend the cause (run.client_timeout holds for evaluation too) and the "
            "same command goes on with the run"
        )
    return total
