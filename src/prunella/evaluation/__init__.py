"""Quality of a model: metrics of its images, its output error, paired differences with intervals."""
