"""Dropout in exported graphs, where the mode is an argument of each operator."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

_DROPOUTS = (torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default)


def set_dropout(graph: GraphModule, training: bool) -> None:
    """Switch every dropout of the graph on or off; stochastic depth is a dropout, too."""
    for node in graph.graph.nodes:
        if node.target in _DROPOUTS:
            x, probability, _ = node.args
            node.args = (x, probability, training)
    graph.recompile()


def remove_dropout(graph: GraphModule) -> None:
    """Remove every dropout, for inference."""
    for node in list(graph.graph.nodes):
        if node.target in _DROPOUTS:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
