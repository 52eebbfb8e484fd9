"""Devices, precision, processes, compilation, and folders in which a killed run resumes."""
