"""ResNet-50 on PASCAL VOC 2012 as the challenge has it: any number of the 20 classes in a photo.

Source:   Everingham et al., "The PASCAL VOC 2012 Development Kit": one yes-or-no question for each
          class, objects marked difficult left out, mean average precision. Trained on the training
          images, evaluated on the validation images; the test images have no published labels.
Command:  flax-resnet prepare voc2012 --from VOCtrainval_11-May-2012.tar
          python train.py --config resnet50_voc2012_multilabel
Expected: not measured. The best checkpoint is that of the best mean average precision (val_map).
Cost:     60 epochs of 5,717 photos at 224x224; an accelerator is advised.
"""

from dataclasses import replace

from flax_resnet.config import AugmentConfig, load_config

single_label = load_config("resnet50_voc2012")
config = replace(
    single_label,
    data=replace(single_label.data, name="voc2012"),
    augment=AugmentConfig(random_resized_crop=True, crop_scale=(0.25, 1.0), crop_padding=0),
    loss="sigmoid",
    workdir=None,
)
