"""Images as cameras see them in bad conditions: 15 corruptions at five severities."""
