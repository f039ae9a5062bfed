"""ResNet-50 on ImageNet-1k in 16 to 88 epochs: FFCV's recipe.

Source:   Leclerc et al. 2023 (FFCV) and github.com/libffcv/ffcv-imagenet, rn50_configs: SGD, 1.7
          for a batch of 4,096 (8 x 512), here 0.425 for 1,024; 2 epochs of warm-up, then a line to
          zero; weight decay 1e-4 but on norms; label smoothing 0.1; crops and mirror images;
          trained at 160 and for the last quarter at 192, evaluated at 256 with mirror images.
Command:  python train.py --config resnet50_imagenet_fast --data.dir IMAGENET
          python train.py --config resnet50_imagenet_fast --data.dir IMAGENET --epochs 88 \
              --data.train-sizes 0 160 71 192 --workdir runs/resnet50_imagenet_88
          as published on eight GPUs: --data.batch-size 4096 --optimizer.learning-rate 1.7
Expected: 73.8% / 90.8% validation accuracy in 16 epochs, 78.4% / 94.1% in 88 (FFCV's; not run
          by us).
Differs:  no BlurPool (FFCV blurs before strided convolutions); bfloat16 and not float16; the photos
          are not reduced beforehand to 500 pixels; the classifier's bias is not decayed.
Cost:     16 epochs of 1.28 million photos; FFCV needs 15 minutes on eight A100s.
"""

from flax_resnet.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig

config = Config(
    model=ModelConfig(name="resnet50", dtype="bfloat16"),
    data=DataConfig(
        name="folder", batch_size=1024, image_size=256, train_sizes=((0, 160), (12, 192))
    ),
    augment=AugmentConfig(random_resized_crop=True, crop_padding=0),
    optimizer=OptimizerConfig(
        learning_rate=0.425,
        nesterov=False,
        weight_decay=1e-4,
        schedule="linear",
        warmup_epochs=2,
    ),
    label_smoothing=0.1,
    evaluate_flipped=True,
    epochs=16,
)
