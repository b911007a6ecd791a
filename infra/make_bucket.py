"""Make the bucket of the stack, unless it is there: `python make_bucket.py NAME`, S3 as AWS_* say."""

import contextlib
import sys

import boto3

client = boto3.client("s3")
with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
    client.create_bucket(Bucket=sys.argv[1])
