"""Text to vectors: the bi-encoder, how it is set, and how it is trained from passages alone."""

from atlas_lm.retriever.bi_encoder import BiEncoder
from atlas_lm.retriever.embedding import EmbeddingReport
from atlas_lm.retriever.settings import EncoderSettings, Pooling, Similarity

__all__ = ["BiEncoder", "EmbeddingReport", "EncoderSettings", "Pooling", "Similarity"]
