"""Figures by class and client, image by image: no share is weighted, answers are only counted."""

from statistics import mean


def answers(correct, total):
    """[class] -> a list of one entry an image: whether it was told correctly."""
    return [[i < right for i in range(n)] for right, n in zip(correct, total, strict=False)]


def pooled(classes):
    told = [answer for answers_of_class in classes for answer in answers_of_class]
    return sum(told) / len(told)


def macro(correct, total):
    return mean(sum(told) / len(told) for told in answers(correct, total) if told)


def expected_at(client_images, correct, total):
    """Mean over a client's training images of the accuracy of their class; None without such an image."""
    of_images = []
    for n, told in zip(client_images, answers(correct, total), strict=False):
        if told:
            of_images += [sum(told) / len(told)] * n
    return mean(of_images) if of_images else None
