"""Every constant of a method, as frozen documented dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ObjectiveName = Literal["sms", "vsd", "sds", "dds", "pds"]
RivalName = Literal["sdedit", "styleid", "freestyle", "instantstyle", "gatys", "adain", "ghiasi"]
Method = Literal[ObjectiveName, RivalName]
SAMPLING: tuple[Method, ...] = ("sdedit", "styleid", "freestyle", "instantstyle")
"""Methods that denoise step by step: rivals for comparison, which no network can be trained with."""
TRANSFER: tuple[Method, ...] = ("gatys", "adain", "ghiasi")
"""Methods that change pixels and need no diffusion model: the classical rivals."""
ONE_PICTURE: tuple[Method, ...] = ("styleid", "instantstyle", *TRANSFER)
"""Methods that take their style from one picture instead of an adapter."""
Sampler = Literal["narrowing", "uniform", "annealed"]
WeightName = Literal["posterior", "noise", "unit", "clean", "normalised"]
FakeWeightName = Literal["alpha_bar_squared", "min_snr", "unit"]
DistanceName = Literal["l1", "l2"]
ReductionName = Literal["mean_then_absolute", "absolute_then_mean"]
FakeScope = Literal["picture", "batch"]
FakeSampler = Literal["uniform", "run"]
Augmentation = Literal["none", "shifts"]
TrunkName = Literal["vgg19", "vgg16", "hed"]
StartName = Literal["noise", "inversion"]
OptimiserName = Literal["adamw", "adam", "sgd"]


@dataclass(frozen=True, kw_only=True)
class TimestepConfig:
    """When the picture is looked at.

    Attributes:
        sampler: narrowing (the paper's), uniform or annealed.
        t_min: smallest timestep, at least 3.
        t_max: largest timestep, at most 999.
    """

    sampler: Sampler = "narrowing"
    t_min: int = 21
    t_max: int = 499


@dataclass(frozen=True, kw_only=True)
class RelevanceConfig:
    """Semantic-Aware Gradient Refinement.

    Attributes:
        strength: 0 no map, 1 the map as it is.
        largest_strength: the strength where the content knob stands at 1; at 0 there is no map. Not below `strength`.
        reduction: order of channel mean and absolute value.
        upper_quantile: quantile of the map that counts as 1; 1 is min-max.
        timesteps: 0 computes the map in every iteration; above 0 it is computed at so many evenly spaced timesteps
            before the run, and an iteration uses the nearest.
        edit_prompt: prompt of the map; `{style}` and `{caption}` are filled in.
    """

    strength: float = 1.0
    largest_strength: float = 0.0
    reduction: ReductionName = "mean_then_absolute"
    upper_quantile: float = 1.0
    timesteps: int = 0
    edit_prompt: str = "Turn into {style}"


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """Progressive Spectrum Regularization.

    Attributes:
        weight: lambda; 0 switches it off.
        distance: l1 (the released code) or l2 (squared, the paper's text).
        period: timestep at which all frequencies are held.
        free_below: frequencies (u, v) with u + v below this are not held: 1 frees the mean, for styles that change it.
        smallest_factor: what the weight is multiplied with where the content knob stands at 0.
        largest_factor: what it is multiplied with at 1.
    """

    weight: float = 5e-4
    distance: DistanceName = "l1"
    period: int = 500
    free_below: int = 0
    smallest_factor: float = 0.0
    largest_factor: float = 64.0


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the picture moves.

    Attributes:
        name: adamw, adam or sgd (plain, `z - lr * gradient` for a single picture).
        lr: peak learning rate.
        weight_decay: decoupled for adamw; shrinks the latent by `lr * weight_decay` a step.
        beta1: first Adam moment.
        beta2: second Adam moment.
        warmup: iterations of linear warm-up from 0.
        warmup_fraction: further iterations of warm-up, as a fraction of the run's.
        cosine_length: length of the cosine in units of the iterations; 0 keeps lr constant after warm-up.
    """

    name: OptimiserName = "adamw"
    lr: float = 0.1
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    warmup: int = 100
    warmup_fraction: float = 0.0
    cosine_length: float = 1.5


@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    """The fake score's adapter and its training.

    Attributes:
        rank: of the adapter.
        alpha: the adapter's output is scaled by alpha / rank.
        targets: last parts of the names of the adapted layers.
        lr: AdamW's constant learning rate.
        guidance_scale: guidance of the fake prediction in the gradient; 1 leaves out the unconditional prediction.
        t_min: smallest timestep it is trained on.
        t_max: largest timestep it is trained on; not narrowed.
        weight: factor of its squared error.
        shared: whether the gradient takes the prediction that the training step is made on, which saves a pass; t_min
            and t_max have no effect then, guidance_scale must be 1 and the run's consistent_noise 0.
        sampler: timesteps of its training: uniform in [t_min, t_max], or those of the run's own sampler.
        anchor: fraction rho of the drawn noise in the gradient's fake prediction, (1 - rho) fake + rho eps: 0 is the
            method, 1 is SDS.
        scope: one adapter per picture, or one for all pictures of a batch, which then depend on one another.
        augment: what it is trained on: the picture, or random circular shifts and mirror images of its latent.
    """

    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = ("to_q", "to_v")
    lr: float = 1e-3
    guidance_scale: float = 4.5
    t_min: int = 21
    t_max: int = 499
    weight: FakeWeightName = "alpha_bar_squared"
    shared: bool = False
    sampler: FakeSampler = "uniform"
    anchor: float = 0.0
    scope: FakeScope = "picture"
    augment: Augmentation = "none"


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Coarse to fine: a large picture is fitted at the native resolution, then refined at its own from small timesteps.

    Attributes:
        factor: largest short side that is chosen by default, in units of the native resolution; 1 always fits at one
            size and refines nothing.
        iterations: of the refinement, after those of the run.
        t_max: largest timestep of the refinement.
    """

    factor: float = 1.0
    iterations: int = 8
    t_max: int = 301


@dataclass(frozen=True, kw_only=True)
class SdeditConfig:
    """SDEdit: noise is added to the photo's latent, and the style model denoises it.

    Attributes:
        strength: fraction of the model's timesteps at which it begins; 0 returns the photo as the autoencoder has it.
    """

    strength: float = 0.6


@dataclass(frozen=True, kw_only=True)
class StyleIdConfig:
    """StyleID: photo and style picture are inverted, and denoising reads the style in its self-attention.

    Attributes:
        strength: fraction of the model's timesteps that are inverted; 0 returns the photo as the autoencoder has it.
        gamma: share of the photo's own queries.
        temperature: factor of the attention's logits, which sharpens it.
    """

    strength: float = 0.98
    gamma: float = 0.75
    temperature: float = 1.5


@dataclass(frozen=True, kw_only=True)
class FreestyleConfig:
    """FreeStyle: the photo without noise goes through the network beside the noised picture, whose skips it takes.

    Attributes:
        strength: fraction of the model's timesteps at which it begins; 0 returns the photo as the autoencoder has it.
        backbone: largest factor of the decoder's widest backbone features.
        skip: factor of the lowest frequencies of the skips beside them.
    """

    strength: float = 0.958
    backbone: float = 2.5
    skip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class InstantStyleConfig:
    """InstantStyle: an IP-Adapter shows the style picture to the block of the U-Net that is responsible for style.

    Attributes:
        strength: fraction of the model's timesteps at which it begins; 0 returns the photo as the autoencoder has it.
        scale: factor of what the adapter adds in the style block.
        content_scale: factor of what the adapter adds everywhere when it is shown the photo; InstantStyle-Plus has 0.2.
        start: the photo's latents with noise, or inverted as InstantStyle-Plus does.
    """

    strength: float = 0.6
    scale: float = 1.0
    content_scale: float = 0.0
    start: StartName = "noise"


@dataclass(frozen=True, kw_only=True)
class GatysConfig:
    """Gatys et al.: pixels are optimised until a VGG's activations are the photo's and their Gram matrices the style's.

    Attributes:
        trunk: VGG19 or VGG16 of torchvision, or the VGG16 of the edge detector HED.
        content_weight: alpha.
        style_weight: beta.
    """

    trunk: TrunkName = "vgg19"
    content_weight: float = 1.0
    style_weight: float = 1000.0


@dataclass(frozen=True, kw_only=True)
class AdainConfig:
    """AdaIN: one pass through an encoder and a decoder.

    Attributes:
        strength: alpha, from the photo's statistics, 0, to the style picture's, 1.
    """

    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GhiasiConfig:
    """Ghiasi et al.: one pass through a network whose normalisation a second one predicts.

    Attributes:
        strength: from the numbers predicted for the photo, 0, to those for the style picture, 1.
    """

    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What a preset fixes: a method with all its constants. The defaults are the released code's.

    Attributes:
        method: sms, vsd, sds, dds or pds; for comparison sdedit, styleid, freestyle, instantstyle, gatys, adain or
            ghiasi.
        iterations: length of the run; of those that denoise the steps, at most.
        guidance_scale: of the style score, and of the source score in dds and pds.
        weight: w_t of sms, vsd, sds and dds; pds has its own. clean measures the direction in clean latents,
            normalised divides that by each picture's mean distance to the style's prediction.
        consistent_noise: fraction f of one noise fixed for the whole run in every draw of the gradient,
            sqrt(f) eps_run + sqrt(1 - f) eps. The fake score is always trained on fresh noise.
        style_strength: factor of the style LoRA.
        text_strength: factor of its text-encoder part alone; `None` takes `style_strength`.
        text_encoder_lora: whether a style LoRA's text-encoder part is applied.
        sample_posterior: whether the source latent is a sample of the encoder's posterior or its mean.
        target_prompt: prompt of style and fake; `{style}` and `{caption}` are filled in.
    """

    method: Method = "sms"
    iterations: int = 500
    guidance_scale: float = 4.5
    weight: WeightName = "posterior"
    consistent_noise: float = 0.0
    style_strength: float = 0.8
    text_strength: float | None = None
    text_encoder_lora: bool = True
    sample_posterior: bool = False
    target_prompt: str = "{style}, {caption}"
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    relevance: RelevanceConfig = field(default_factory=RelevanceConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    fake: FakeConfig = field(default_factory=FakeConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    sdedit: SdeditConfig = field(default_factory=SdeditConfig)
    styleid: StyleIdConfig = field(default_factory=StyleIdConfig)
    freestyle: FreestyleConfig = field(default_factory=FreestyleConfig)
    instantstyle: InstantStyleConfig = field(default_factory=InstantStyleConfig)
    gatys: GatysConfig = field(default_factory=GatysConfig)
    adain: AdainConfig = field(default_factory=AdainConfig)
    ghiasi: GhiasiConfig = field(default_factory=GhiasiConfig)

    @property
    def is_sampling(self) -> bool:
        """Whether the method denoises a picture step by step instead of descending a gradient."""
        return self.method in SAMPLING

    @property
    def sampling_strength(self) -> float:
        """Fraction of the timesteps at which denoising begins, for a method that does so step by step."""
        strengths: dict[str, float] = {
            "sdedit": self.sdedit.strength,
            "styleid": self.styleid.strength,
            "freestyle": self.freestyle.strength,
            "instantstyle": self.instantstyle.strength,
        }
        return strengths.get(self.method, 0.0)

    @property
    def is_transfer(self) -> bool:
        """Whether the method changes pixels, and no diffusion model is loaded."""
        return self.method in TRANSFER

    @property
    def is_one_pass(self) -> bool:
        """Whether a single step makes the whole picture."""
        return self.method in ("adain", "ghiasi")

    @property
    def has_knob(self) -> bool:
        """Whether the content knob moves constants of the method; that of others is the length of the run."""
        return self.method == "sms" or self.is_sampling or self.is_transfer

    @property
    def takes_style_picture(self) -> bool:
        """Whether the method takes its style from a picture instead of an adapter."""
        return self.method in ONE_PICTURE

    @property
    def takes_control(self) -> bool:
        """Whether a ControlNet may stand beside the style score."""
        return self.method in ("sdedit", "instantstyle")

    @property
    def weights(self) -> tuple[str, ...]:
        """The networks that the method needs besides a diffusion model, by the names of `--weights`."""
        match self.method:
            case "gatys":
                return (self.gatys.trunk,)
            case "adain":
                return ("adain-encoder", "adain-decoder")
            case "ghiasi":
                return ("ghiasi-predict", "ghiasi-transfer")
            case "instantstyle":
                return ("ip-adapter", "image-encoder")
            case _:
                return ()

    @property
    def has_content_stream(self) -> bool:
        """Whether the photo without noise goes through the network beside the picture."""
        return self.method == "freestyle"

    @property
    def refine_factor(self) -> float:
        """Largest short side that is chosen by default, in units of the native resolution; 1 where nothing refines."""
        return 1.0 if self.is_sampling or self.is_transfer else self.refine.factor

    @property
    def strength_of_text(self) -> float:
        """Factor of the style LoRA's text-encoder part."""
        return self.style_strength if self.text_strength is None else self.text_strength

    @property
    def is_guided(self) -> bool:
        """Whether a score of the gradient is guided, so that the negative prompt has an effect."""
        if self.is_transfer:
            return False
        return self.guidance_scale != 1 or (self.has_fake_score and self.fake.guidance_scale != 1)

    @property
    def has_fake_score(self) -> bool:
        """Whether the method trains and evaluates a fake score."""
        return self.method in ("sms", "vsd")

    @property
    def has_lone_style_pass(self) -> bool:
        """Whether style is the only score that an iteration evaluates without gradient."""
        makes_map = self.method == "sms" and self.relevance.strength > 0 and self.relevance.timesteps == 0
        return self.has_fake_score and self.fake.shared and not makes_map
