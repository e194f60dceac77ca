"""Dense conditional random field over the pixels of a picture, an optional extra (pydensecrf2)."""

import numpy as np

from shared.errors import InputError

ITERATIONS = 10


def require() -> None:
    """InputError when the package is not installed; to be called before work that takes long."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"crf: pydensecrf is missing or broken ({error}): make optional, or pip install -r "
            "projects/babel/requirements-crf.txt, or crf=false"
        ) from None


def refine(picture: np.ndarray, masks: np.ndarray, *, iterations: int = ITERATIONS) -> np.ndarray:
    """Class probabilities after mean-field inference, float32 [K, H, W].

    The unary energy is -log of the masks, which need not sum to 1; the pairwise ones are a Gaussian (3 pixels,
    weight 3) and a bilateral kernel (80 pixels, 13 grey levels, weight 10), as released.

    Args:
        picture: uint8 RGB [H, W, 3].
        masks: [K, H, W].
        iterations: of the mean field.

    Raises:
        InputError: pydensecrf is not installed.
    """
    require()
    from pydensecrf import densecrf

    classes, height, width = masks.shape
    unary = -np.log(np.clip(masks, 1e-5, 1.0)).astype(np.float32).reshape(classes, -1)
    field = densecrf.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.array(picture, order="C"), compat=10)
    return np.array(field.inference(iterations), np.float32).reshape(classes, height, width)
