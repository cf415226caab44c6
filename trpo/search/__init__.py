"""A search for settings: what is searched, the study that several processes share, its trials and what they found."""
