"""How a scene becomes an item: the `items` section of a config, one field per key."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projects.semabs import sampling
from projects.semabs.sampling import Rng

TASKS = ("ovssc", "vool")
AUGMENTATIONS = ("released", "rooms", "none")
MEANS = ("rgb_ours", "own")
INPUTS = ("patch_masks", "saliency", "rgb", "tsdf")
_OVSSC_RANGES = (0.05, 0.15, 0.1)  # written out in the released code, whose dr_* flags move VOOL's items only


@dataclass(frozen=True)
class ItemSettings:
    """Keys of `items`; defaults as released.

    Attributes:
        saliency_config: which relevancy maps, "ours" or "chefer_et_al".
        scene_bounds: the box [2][3] that points must lie in.
        num_patches: labels of a training item (OVSSC).
        num_descs: descriptions of a training item (VOOL).
        num_input_pts: observed points of a training item.
        num_output_pts: query points of each label or description in training.
        eval_input_pts: observed points in evaluation; -1 = all.
        subtract_mean_relevancy: subtract the mean over all labels from each map.
        mean_of: which mean that is: "rgb_ours", whatever the maps are, which the released code reads by mistake
            and the released models were trained on; "own" = of the maps themselves.
        saliency_vmin: subtracted from the maps (after the mean), the rest clamped at 0; None = neither.
        relevancy_scale: the maps' factor, last of all.
        patch_mask_cutoff: a patch mask is where a map is above it.
        scaled_masks: VOOL compares with it after the factor, as released; False = before it, as OVSSC does.
        offset_patch_mask: masks of -1 and 1 instead of 0 and 1 (OVSSC).
        augmentation: "released" = any small affine map, "rooms" = the embedded rooms' (turned, mirrored), "none".
        domain_randomization: whether training items are augmented at all.
        dr_pos, dr_orn, dr_scale: ranges of the released augmentation of VOOL; OVSSC's are fixed.
        moved_frustum: the frustum is that of the camera moved with an augmented scene; as released, that of the
            camera as it is stored.
        xyz_pts_noise: deviation of noise on observed and query points, metres; training only.
        balance_spatial_sampling: query points inside and outside a label are drawn equally often.
        balance_spatial_relations: descriptions are drawn by 1 / the number of those with their relation.
        always_replace_subsample_pts: draw points with replacement.
        check_upright: look at the first scene of a split: its floor must lie lower than its objects.
        all_synonyms: under synonyms, "computer" is every class called so; as released, the laptop only.
        synonym_sentences: under synonyms, the map of a whole description is that of its synonyms too; as released,
            only target and reference change (VOOL).
        sampling: "race" (quick) or "choice" (the released draws), see `sampling.draw_points`.
    """

    saliency_config: str = "ours"
    scene_bounds: Sequence[Sequence[float]] = ((-1.0, -1.0, -0.1), (1.0, 1.0, 1.9))
    num_patches: int = 4
    num_descs: int = 4
    num_input_pts: int = 80_000
    num_output_pts: int = 400_000
    eval_input_pts: int = -1
    subtract_mean_relevancy: bool = True
    mean_of: str = "rgb_ours"
    saliency_vmin: float | None = None
    relevancy_scale: float = 50.0
    patch_mask_cutoff: float = 0.004
    scaled_masks: bool = True
    offset_patch_mask: bool = False
    augmentation: str = "released"
    domain_randomization: bool = True
    dr_pos: float = 0.1
    dr_orn: float = 0.3
    dr_scale: float = 0.1
    moved_frustum: bool = False
    xyz_pts_noise: float = 0.0
    balance_spatial_sampling: bool = True
    balance_spatial_relations: bool = True
    always_replace_subsample_pts: bool = False
    check_upright: bool = True
    all_synonyms: bool = False
    synonym_sentences: bool = False
    sampling: str = "race"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("augmentation", self.augmentation, AUGMENTATIONS),
            ("mean_of", self.mean_of, MEANS),
            ("sampling", self.sampling, sampling.METHODS),
        ):
            if value not in known:
                raise ValueError(f"items.{name}: expected one of {', '.join(known)}, found {value!r}")

    @property
    def bounds(self) -> np.ndarray:
        """`scene_bounds` as [2, 3] float64."""
        return np.asarray(self.scene_bounds, np.float64).reshape(2, 3)

    def draw_affine(self, rng: Rng, task: str) -> np.ndarray | None:
        """The augmentation [4, 4] of a training item; None = not moved."""
        if not self.domain_randomization or self.augmentation == "none":
            return None
        if self.augmentation == "rooms":
            return sampling.draw_room_affine(rng, self.bounds)
        ranges = _OVSSC_RANGES if task == "ovssc" else (self.dr_pos, self.dr_orn, self.dr_scale)
        position, orientation, scale = ranges
        return sampling.draw_released_affine(
            rng, self.bounds, position=position, orientation=orientation, scale=scale
        )
