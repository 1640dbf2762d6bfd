"""A retriever that is its own weights: query q and passage p have one vector each."""

import torch
from torch import nn

from atlas_lm.index import FlatIndex
from atlas_lm.index.files import Fingerprint
from atlas_lm.staleness import LiveIndex
from atlas_lm.types import Passage

DIM = 4


class Store(list):
    def passages(self, rows):
        return [self[row] for row in rows]


class Retriever(nn.Module):
    def __init__(self, n=20, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vectors = nn.Parameter(torch.randn(n, DIM, generator=generator))
        self.asked = []

    def embed_queries(self, query):
        return self.vectors[[int(text) for text in query]]

    def embed_corpus(self, passages):
        self.asked.append([int(passage.id) for passage in passages])
        return self.vectors.detach()[self.asked[-1]].clone()

    def fingerprint(self):
        encoder = str(self.vectors.double().sum().item())
        return Fingerprint(encoder, "{text}", "mean", "dot", 16, DIM, "corpus")

    @torch.no_grad()
    def move_(self, by=1.0, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.vectors += by * torch.randn(self.vectors.shape, generator=generator)


def live_index(retriever, dtype=torch.float32, allowed_rows=None):
    index = FlatIndex(
        retriever.vectors.detach().clone().to(dtype), fingerprint=retriever.fingerprint()
    )
    store = Store(Passage(str(row), "text") for row in range(len(index)))
    return LiveIndex(index, store, retriever, retriever.fingerprint, allowed_rows)
