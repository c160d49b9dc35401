"""What the paper compares with: other models behind the same `loss_and_grads`."""

from ..arrays import array_module
from ..model import Result


def supervised_result(loss, grads, name):
    """The Result of a model without auxiliary losses; its parameter `name` stands for main.Wh."""
    dWh = {"supervised": grads[name], "auxiliary": array_module(grads[name]).zeros_like(grads[name])}
    return Result({"supervised": loss, "r": 0.0, "p": 0.0}, grads, dWh, [])
