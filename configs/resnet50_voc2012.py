"""ResNet-50 on PASCAL VOC 2012's 20 classes, each photo with one of them.

Source:   augmentation of Chollet 2016, "Building powerful image classification models using very
          little data" (Keras's ImageDataGenerator: shifts 0.2, shear 0.2 radians, zoom 0.2, mirror
          images, nearest pixels outside); classes of Everingham et al. 2012; 8:1:1 by content.
Command:  python train.py --config resnet50_voc2012 --data.dir VOC
          (a folder with a folder of photos for each of the 20 classes); or VOC's own archive:
          flax-resnet prepare voc2012_single_label --from VOCtrainval_11-May-2012.tar
          python train.py --config resnet50_voc2012 --data.name voc2012_single_label
Expected: not measured; top-1 and top-5 of validation and test. Keras squeezes photos to 224x224,
          here the shorter side becomes 256 and the middle is cut out.
Cost:     60 epochs of about 7,000 photos at 224x224; an accelerator is advised.
"""

from flax_resnet.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet50"),
    data=DataConfig(name="folder", batch_size=32, image_size=224, splits=(0.8, 0.1, 0.1)),
    augment=AugmentConfig(crop_padding=0, shift=0.2, shear=11.5, zoom=0.2, fill="nearest"),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, weight_decay=0.0, schedule="cosine"),
    epochs=60,
)
