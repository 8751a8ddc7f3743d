"""`python -m usseg_ray.bench`: a file for each stage that is measured, and what they share."""
