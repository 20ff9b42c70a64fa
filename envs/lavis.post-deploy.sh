#!/usr/bin/env bash
# Snakemake runs this in the new environment. On a GPU machine name the torchvision that matches your torch.
set -euo pipefail
python -m pip install --no-deps salesforce-lavis==1.0.2 timm==0.4.12 torchvision==0.16.2
