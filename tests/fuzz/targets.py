"""All targets, by name."""

from __future__ import annotations

from tests.fuzz import chat, files, manifest, payload, wire

TARGETS = {own.TARGET.name: own.TARGET for own in (payload, wire, chat, manifest, files)}
