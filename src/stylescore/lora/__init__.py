"""Style adapters: read their files, bind them to a model, add several, describe them."""

from stylescore.lora.binding import bind
from stylescore.lora.deltas import Additive, Change, Product, stack
from stylescore.lora.reading import LoraFile, read_lora
from stylescore.lora.report import LoraReport, ModuleCount, describe

__all__ = [
    "Additive",
    "Change",
    "LoraFile",
    "LoraReport",
    "ModuleCount",
    "Product",
    "bind",
    "describe",
    "read_lora",
    "stack",
]
