"""Methods of other families, in a few lines each: what tests ask whether the contract and the loop carry them."""

from dataclasses import dataclass, field

import numpy as np
import torch

from fcil.method import Adapter, Averaging, Broadcast, GramShape, Local, Method, Modules, Pass, head
from fcil.model.prompt_forward import embed, run_blocks
from strategies.fedavg import FedAvg


@dataclass
class ClassSums:
    """sum f f^T, and per class of the task sum f and the count, in float64."""

    task: object
    layers: dict = field(default_factory=dict)
    gradients: dict = field(default_factory=dict)
    sums: dict = field(default_factory=dict)

    def shapes(self, broadcast):
        return {"gram": GramShape((-1, -1), "matrix"), "sums": (self.task.size, -1), "counts": (self.task.size,)}

    def start(self, arrays, model, generator):
        return ClassSums(self.task)

    def batch(self, features, labels, samples):
        f = features.double()
        hot = torch.nn.functional.one_hot(labels - self.task.first, self.task.size).double()
        for name, share in {"gram": f.T @ f, "sums": hot.T @ f, "counts": hot.sum(0)}.items():
            self.sums[name] = self.sums[name] + share if name in self.sums else share

    def finish(self):
        return {name: s.numpy() for name, s in self.sums.items()}


@dataclass(frozen=True, kw_only=True)
class ReportOnly(Method):
    """Sums over clients and tasks; nothing trains."""

    def phases(self, task, rounds):
        return ("report",)

    def local(self, phase):
        return Local(passes=(Pass((ClassSums(phase.task),)),))

    def broadcast(self, state, phase):
        return Broadcast({})

    def merge(self, state, phase, updates):
        summed = {n: np.sum([u.statistics[n] for u in updates], axis=0) for n in ("gram", "sums", "counts")}
        old = state.get("sums", {})
        gram = old.get("gram", 0) + summed["gram"]
        per_class = {n: np.concatenate([*([old[n]] if n in old else []), summed[n]]) for n in ("sums", "counts")}
        return {"sums": {"gram": gram, **per_class}}


@dataclass(frozen=True, kw_only=True)
class RidgeHead(ReportOnly):
    alpha: float = 1.0

    def deploy(self, state, phase):
        s = state["sums"]
        rows = np.linalg.solve(s["gram"] + self.alpha * np.eye(len(s["gram"])), s["sums"].T).T
        return {head.weight(0): rows, head.bias(0): np.zeros(len(rows))}


@dataclass(frozen=True, kw_only=True)
class Anchored(FedAvg):
    """strength / 2 x sum importance (theta - anchor)^2, anchor = the module at the end of the last task."""

    strength: float = 0.0

    def begin(self, state, phase, backbone):
        anchor = {f"anchor {n}": a for n, a in state.get("module", {}).items()}
        importance = {f"importance {n}": np.full_like(a, 0.5) for n, a in state.get("module", {}).items()}
        return {**super().begin(state, phase, backbone), "anchor": {**anchor, **importance}}

    def broadcast(self, state, phase):
        return Broadcast(super().broadcast(state, phase).arrays, state["anchor"])

    def loss(self, step):
        penalty = sum(
            (step.constant(f"importance {name}") * (leaf - step.constant(f"anchor {name}")).square()).sum()
            for name, leaf in step.model.arrays.items()
            if f"anchor {name}" in step.references
        )
        return super().loss(step) + self.strength / 2 * penalty


@dataclass(frozen=True, kw_only=True)
class Replay(FedAvg):
    """Each client keeps two of its samples in every phase, and trains on all that it has kept beside every batch."""

    def loss(self, step):
        old = step.store.get("samples", np.zeros(0, np.int64))
        replayed = step.model.features(step.client.images(old, augment=True)).square().mean() if len(old) else 0.0
        return super().loss(step) + 0.1 * replayed

    def client_end(self, client):
        old = client.store.get("samples", np.zeros(0, np.int64))
        client.store["samples"] = np.concatenate([old, client.generator("kept").choice(client.samples, 2)])
        client.store["owner"], client.store["phase"] = np.array([client.number]), np.array([client.phase.index])


@dataclass(frozen=True, kw_only=True)
class Calibrated(FedAvg):
    """At a task's end the server trains the task's head rows on features drawn from N(mean of the class, covariance).

    In the manner of CCVR (Luo et al., NeurIPS 2021, arXiv 2106.05001), with one covariance for all classes.
    """

    samples: int = 32
    steps: int = 20

    def task_report(self, task):
        return (Pass((ClassSums(task),)),)

    def merge_report(self, state, phase, sums):
        rng, task = phase.generator("calibration"), phase.task.index
        means = sums["sums"] / np.maximum(sums["counts"], 1)[:, None]
        covariance = (sums["gram"] - means.T @ (sums["counts"][:, None] * means)) / sums["counts"].sum()
        classes = np.repeat(np.flatnonzero(sums["counts"]), self.samples)
        x = means[classes] + rng.multivariate_normal(np.zeros(len(covariance)), covariance, len(classes), method="eigh")
        names = (head.weight(task), head.bias(task))
        rows = {n: torch.tensor(state["head"][n], dtype=torch.float64, requires_grad=True) for n in names}
        optimizer = torch.optim.SGD(rows.values(), lr=0.01, momentum=0.9)
        for _ in range(self.steps):
            optimizer.zero_grad()
            logits = torch.nn.functional.linear(torch.from_numpy(x), *rows.values())
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes)).backward()
            optimizer.step()
        return Modules.of(state).replaced({n: row.detach().float().numpy() for n, row in rows.items()})


@dataclass(frozen=True, kw_only=True)
class NearestMean(ReportOnly):
    def deploy(self, state, phase):
        means = state["sums"]["sums"] / state["sums"]["counts"][:, None]
        return {head.weight(0): means, head.bias(0): np.zeros(len(means))}

    def scores(self, model, images):
        return -torch.cdist(model.features(images), model.arrays[head.weight(0)])


@dataclass(frozen=True)
class PromptPool(Adapter):
    """Of `size` prompts those `top` whose keys are nearest to the image's own feature, by the cosine (as in L2P).

    One call of `features` is the query's pass, without prompts and gradients, and the prompted one; it returns the
    cosines of the chosen keys beside the features.
    """

    size: int = 5
    length: int = 2
    top: int = 2
    trains = ("pool.*",)

    def check(self, backbone):
        pass

    def initial(self, backbone, draw):
        shapes = {"pool.keys": (self.size, backbone.width), "pool.prompts": (self.size, self.length, backbone.width)}
        return {name: draw(name).uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}

    def install(self, network):
        network.prompt_pool = torch.nn.Module()
        network.prompt_pool.keys = network.prompt_pool.prompts = None
        return {"pool.keys": (network.prompt_pool, "keys"), "pool.prompts": (network.prompt_pool, "prompts")}

    def features(self, network, images):
        tokens, pool = embed(network, images), network.prompt_pool
        with torch.no_grad():
            query = network.forward_head(run_blocks(network, tokens), pre_logits=True)
        if pool.keys is None:
            return query
        nearness = torch.nn.functional.cosine_similarity(query[:, None], pool.keys[None], dim=2)
        cosines, chosen = nearness.topk(self.top)
        prompts = pool.prompts[chosen].flatten(1, 2)
        features = network.forward_head(run_blocks(network, tokens, [prompts]), pre_logits=True)
        return features, {"cosines": cosines, "chosen": chosen}


@dataclass(frozen=True, kw_only=True)
class Pool(Averaging):
    """Federated averaging of a pool of prompts; the loss pulls the chosen keys towards the queries."""

    pull: float = 0.5

    @property
    def adapter(self):
        return PromptPool()

    def loss(self, step):
        return step.cross_entropy() - self.pull * step.outputs["cosines"].sum(1).mean()
