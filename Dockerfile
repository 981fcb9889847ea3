# gritlm serve, as a user without rights, from a folder of models and one of documents.
#
#   docker build -t gritlm .
#   docker run -p 127.0.0.1:8000:8000 -e GRITLM_API_KEY=... -v gritlm-models:/models -v gritlm-store:/store gritlm
#
# A plain torch brings gigabytes for CUDA, which a GPU needs (docker run --gpus all). For a CPU give
# pip an index of CPU builds: docker build --build-arg TORCH_OPTIONS="--index-url ..." -t gritlm .

# BASE is any image with Debian's layout in which "python" is Python 3.11 or newer with venv.
ARG PYTHON=3.12
ARG BASE=python:${PYTHON}-slim
FROM ${BASE} AS build
ARG TORCH_OPTIONS=""
WORKDIR /src
RUN python -m venv /opt/gritlm
ENV PATH=/opt/gritlm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_OPTIONS} torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install -c constraints.txt ".[serve,rag,office]"

FROM ${BASE}
RUN useradd --uid 10001 --create-home gritlm \
    && mkdir /models /store && chown gritlm /models /store
COPY --from=build /opt/gritlm /opt/gritlm
ENV PATH=/opt/gritlm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GRITLM_CACHE=/models \
    GRITLM_STORE=/store \
    GRITLM_HOST=0.0.0.0
# By number, so that a cluster can see that it is not root.
USER 10001
WORKDIR /home/gritlm
VOLUME ["/models", "/store"]
EXPOSE 8000

# The first start gets the model, which takes its time; after that a sick server is seen in a minute.
HEALTHCHECK --interval=20s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('GRITLM_PORT', '8000') + '/health', timeout=8)"]

# SIGTERM ends what was accepted: give it time with docker stop --timeout 40.
STOPSIGNAL SIGTERM
ENTRYPOINT ["gritlm", "serve"]
