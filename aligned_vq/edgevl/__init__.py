"""EdgeVL: a small student for the device, distilled from a dual encoder for several modalities."""
