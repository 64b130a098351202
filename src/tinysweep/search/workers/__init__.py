"""Who trains the trials of a sweep: processes here, Ray, Submitit, or any other launcher of Hydra's; and what a
job does there."""
