"""torchvision, where it is installed; also where its compiled operators do not load.

The wheels of torchvision are linked against one build of torch. Beside another build (as torch's
for CPUs only) its import fails for two operators of detection that no ResNet uses; declared, they
need not load.
"""

import torch

try:
    import torchvision
except RuntimeError:
    operators = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
