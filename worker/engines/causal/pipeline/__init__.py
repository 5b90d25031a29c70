"""One model over several devices: its layers in stages, a process each, all at work at once on steps of their own."""
