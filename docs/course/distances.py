"""Exercise 7: squared distances between all rows of two matrices, without a loop.

Place: docs/course.md runs it; it shows where float32 runs out of digits, and the cure.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance of each row of one matrix from each row of another.

    By ||a - b||² = ||a||² + ||b||² - 2⟨a, b⟩: one matrix product instead of N times M differences.
    Where two rows are near each other and far from 0, the difference of large numbers keeps few
    digits and may come out below 0; no distance is, hence the clamp.

    Args:
        a: float `[N, d]`.
        b: float `[M, d]`.

    Returns:
        float `[N, M]`, 0 or more, in the squared unit of the rows.
    """
    return raw_squared_distances(a, b).clamp(min=0)


def raw_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """The same before the clamp."""
    # [N, 1] + [1, M] is broadcast to [N, M].
    return (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T


def looped_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """The same by the definition, in float64: slow and exact, to check by."""
    rows = [[(row - other).square().sum() for other in b.double()] for row in a.double()]
    return torch.tensor(rows)


def main() -> None:
    """Moves 60 digits away from 0, which changes no distance, and watches the error."""
    images = torch.load("samples/corruptmnist/test_images.pt", weights_only=True)
    digits = images[:60].flatten(1)
    print("moved by  smallest before the clamp  greatest error  rows centred first")
    for shift in (0, 10, 100, 1000):
        a = digits + shift
        exact = looped_squared_distances(a, a)
        smallest = raw_squared_distances(a, a).min()
        error = (squared_distances(a, a) - exact).abs().max()
        centred = a - a.mean(0)
        cured = (squared_distances(centred, centred) - exact).abs().max()
        print(f"{shift:8}  {smallest:25.2g}  {error:14.2g}  {cured:18.2g}")


if __name__ == "__main__":
    main()
