"""edgeseg: trained DINOv3 segmentation checkpoints as FP16/INT8 engines, beside an endoscope."""
