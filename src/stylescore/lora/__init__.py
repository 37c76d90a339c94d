"""Style adapters: read their files, bind them to a model, add several, describe them."""

from stylescore.lora.binding import absent_layers, bind
from stylescore.lora.deltas import Additive, Change, Product, stack
from stylescore.lora.embeddings import Embedding, read_embedding
from stylescore.lora.reading import LoraFile, read_lora
from stylescore.lora.report import LoraReport, ModuleCount, describe

__all__ = [
    "Additive",
    "Change",
    "Embedding",
    "LoraFile",
    "LoraReport",
    "ModuleCount",
    "Product",
    "absent_layers",
    "bind",
    "describe",
    "read_embedding",
    "read_lora",
    "stack",
]
