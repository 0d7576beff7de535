# What every pod of profiles/kubernetes runs in: all packages as pinned, and the project's command. Not built where it was
# written, because no image could be fetched there; docs/cluster.md says what was tried instead.
#   docker build -t registry.example.org/sdetr:0.1.0 .
FROM python:3.11-slim-bookworm

# kubectl for a pod that runs Snakemake itself; tini hands signals on; git tells the commit of the code that runs.
RUN apt-get update \
 && apt-get install -y --no-install-recommends git kubernetes-client make tini \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sdetr
COPY . .
RUN make setup
RUN .venv/bin/python -m pip install --disable-pip-version-check --no-cache-dir --no-build-isolation \
      --constraint requirements.txt -e '.[kubernetes]'

ENV PATH=/opt/sdetr/.venv/bin:$PATH
ENTRYPOINT ["tini", "-g", "--"]
CMD ["sdetr", "--help"]
