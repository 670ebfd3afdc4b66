"""The subcommands of `aligned-vq`, grouped by topic."""
