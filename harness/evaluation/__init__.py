"""What an artifact scores: by which estimator, on which windows, alone or against another."""
