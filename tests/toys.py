"""Methods of other families, in a few lines each: what tests ask whether the contract and the loop carry them."""

from dataclasses import dataclass, field

import numpy as np
import torch

from fcil.method import Averaging, Broadcast, Local, Method, Pass, head
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
        return {"gram": (-1, -1), "sums": (self.task.size, -1), "counts": (self.task.size,)}

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
        loss = super().loss(step)
        for name, a in step.references.items():
            if name.startswith("anchor "):
                short = name.removeprefix("anchor ")
                importance = torch.from_numpy(step.references[f"importance {short}"])
                change = step.model.arrays[short] - torch.from_numpy(a)
                loss = loss + self.strength / 2 * (importance * change**2).sum()
        return loss


@dataclass(frozen=True, kw_only=True)
class Replay(FedAvg):
    """Each client keeps the images of its first batch of every phase, and trains on them again."""

    def loss(self, step):
        loss = super().loss(step)
        if "images" in step.store:
            old = torch.from_numpy(step.store["images"])
            loss = loss + 0.1 * step.model.features(old).square().mean()
        if int(step.store.get("phase", np.array([-1]))[0]) != step.phase.index:
            kept = step.store.get("images", np.zeros((0, 3, 32, 32), np.float32))
            step.store["images"] = np.concatenate([kept, step.images[:2].numpy()])
            step.store["owner"] = np.array([step.client.number])
            step.store["phase"] = np.array([step.phase.index])
        return loss


@dataclass(frozen=True, kw_only=True)
class NearestMean(ReportOnly):
    def deploy(self, state, phase):
        means = state["sums"]["sums"] / state["sums"]["counts"][:, None]
        return {head.weight(0): means, head.bias(0): np.zeros(len(means))}

    def scores(self, model, images):
        return -torch.cdist(model.features(images), model.arrays[head.weight(0)])


@dataclass(frozen=True)
class PromptPool:
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
