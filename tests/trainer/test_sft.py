"""Supervised fine-tuning through TRL, on a model of one layer."""

import json
from dataclasses import replace

import pytest
import torch

from service.contract.artifact import verify
from service.contract.errors import ArtifactError
from service.contract.policy import load_policy
from tests.tiny_models import *  # noqa: F403
from trainer.encoding import Encoded, encode
from trainer.sft import SftConfig, annotated_lists, labelled, sft, train

QUICK = SftConfig(lists_per_task=6, rewrites=1, batch_size=10, save_steps=3, seed=2)
