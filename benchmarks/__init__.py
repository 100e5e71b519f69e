"""Figures of this project, each beside a limit measured in the same run. JSON lines on standard output."""
