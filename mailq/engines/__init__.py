"""The disks below the waist."""
