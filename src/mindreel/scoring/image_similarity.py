"""Metrics of two pictures, pixel by pixel, and of many pairs of clips on all cores."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from mindreel.errors import InputError

SSIM_WINDOW = 7  # scikit-image's default
SMALLEST = 11  # pixels: the Gaussian window
LARGEST_PSNR = 100.0  # dB; two equal pictures would have infinitely much
NAMES = ("ssim_rgb_uniform7", "ssim_gray_gauss", "psnr", "mse")


def ssim_rgb_uniform7(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of two pictures, as scikit-image's `structural_similarity` with its defaults.

    With means u, sample variances v and covariance c in each window (uniform, 7 x 7, only windows that lie inside),

        SSIM = (2 ua ub + C1) (2 c + C2) / ((ua^2 + ub^2 + C1) (va + vb + C2)),
        C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2,

    averaged over windows and colours (Wang et al. 2004). The window sums are whole numbers, so they are exact.

    Parameters
    ----------
    a, b : (H, W, C) uint8
        H and W at least 7.
    """
    n = SSIM_WINDOW**2
    c1, c2 = (0.01 * 255 * n) ** 2, (0.03 * 255) ** 2 * n * (n - 1)
    a, b = a.astype(np.int32), b.astype(np.int32)
    # sums over windows: n times a mean, n (n - 1) times a variance
    sum_a, sum_b, squares, products = (window_sums(x).astype(float) for x in (a, b, a * a + b * b, a * b))
    means = sum_a * sum_b
    mean_squares = sum_a**2 + sum_b**2
    similarity = (2 * means + c1) * (2 * (n * products - means) + c2)
    similarity /= (mean_squares + c1) * (n * squares - mean_squares + c2)
    return float(similarity.mean())


def window_sums(picture: np.ndarray) -> np.ndarray:
    """Sums over all 7 x 7 windows that lie inside: (H, W, C) int32 to (H - 6, W - 6, C) int32."""
    for _ in range(2):
        two = picture[:-1] + picture[1:]
        four = two[:-2] + two[2:]
        picture = (four[:-3] + two[4:-1] + picture[6:]).swapaxes(0, 1)  # rows 0..3, 4..5, 6
    return picture


def ssim_gray_gauss(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of the grey pictures with the Gaussian window of Wang et al. 2004 (sigma 1.5 pixels).

    scikit-image's, with population covariance and data range 1 on `rgb2gray`: what the image reconstruction literature
    since MindEye calls SSIM, there at 425 x 425 pixels, here at the pictures' own size.

    Parameters
    ----------
    a, b : (H, W, 3) uint8
        H and W at least 11.
    """
    from skimage.color import rgb2gray
    from skimage.metrics import structural_similarity

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(structural_similarity(rgb2gray(a), rgb2gray(b), **options))


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error over pixels and colours, of values from 0 to 1: (H, W, C) uint8 each."""
    difference = a.astype(np.int32) - b.astype(np.int32)
    return float((difference * difference).mean()) / 255**2


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio (dB) of a picture with this `mse`: -10 log10(mse), at most 100."""
    return float(min(LARGEST_PSNR, -10 * np.log10(error))) if error > 0 else LARGEST_PSNR


def compare(a: np.ndarray, b: np.ndarray) -> tuple[float, ...]:
    """All metrics of two pictures (H, W, 3) uint8, in the order of `NAMES`."""
    error = mse(a, b)
    return ssim_rgb_uniform7(a, b), ssim_gray_gauss(a, b), psnr(error), error


def compare_clips(
    made: Sequence[np.ndarray], true: Sequence[np.ndarray], workers: int, label: str = "pixels"
) -> dict[str, np.ndarray]:
    """All metrics of pairs of clips, each the mean over its frames.

    Threads, since NumPy and SciPy release the interpreter while they compute; one picture at a time stays in a core's
    cache.

    Parameters
    ----------
    made, true : list of array
        N of (F, H, W, 3) uint8.
    workers : int
        Clips compared at once.

    Returns
    -------
    scores
        Name to (N,) float64.

    Raises
    ------
    InputError
        If the pictures are smaller than the windows of SSIM.
    """
    if min(made[0].shape[1:3]) < SMALLEST:
        height, width = made[0].shape[1:3]
        raise InputError(
            f"found pictures of {height} x {width} pixels, expected at least {SMALLEST} x {SMALLEST} for SSIM"
        )

    def one(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.mean([compare(a, b) for a, b in zip(*pair, strict=True)], axis=0)

    with ThreadPoolExecutor(workers) as pool:
        rows = list(tqdm(pool.map(one, zip(made, true, strict=True)), total=len(made), desc=label, mininterval=2))
    return dict(zip(NAMES, np.array(rows).reshape(-1, len(NAMES)).T, strict=True))
