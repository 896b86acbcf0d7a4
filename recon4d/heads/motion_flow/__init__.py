"""Generative head: conditional flow matching over the curves of what moves."""

from recon4d.heads.motion_flow.conditions import MotionConditions, motion_conditions
from recon4d.heads.motion_flow.flow_matching import sample_motion
from recon4d.heads.motion_flow.network import FlowConfig, FlowNetwork

__all__ = ["FlowConfig", "FlowNetwork", "MotionConditions", "motion_conditions", "sample_motion"]
