"""Exercise 8: a layer for `nn.Sequential` that reshapes everything but the batch.

Place: docs/course.md runs it.
"""

from __future__ import annotations

from torch import Tensor, nn, zeros


class Reshape(nn.Module):
    """Gives each example another shape.

    Args:
        shape: Of one example, without the batch; one size may be -1, which stands for the rest.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, batch: Tensor) -> Tensor:
        """`[B, a, …]` to `[B, *shape]`, the same numbers in the same order.

        Raises:
            RuntimeError: An example has more or fewer numbers than the shape holds.
        """
        # Not batch.reshape(len(batch), …): with -1 in the shape, an empty batch would stop it.
        return batch.flatten(1).unflatten(1, self.shape)

    def extra_repr(self) -> str:
        """What `print(network)` shows in the brackets."""
        return ", ".join(map(str, self.shape))


def main() -> None:
    """Sends batches of several sizes through a network that reshapes twice."""
    network = nn.Sequential(Reshape(784), nn.Linear(784, 36), Reshape(1, 6, -1))
    print(network)
    for size in (0, 1, 64):
        images = zeros(size, 1, 28, 28)
        print(f"{list(images.shape)} -> {list(network(images).shape)}")


if __name__ == "__main__":
    main()
