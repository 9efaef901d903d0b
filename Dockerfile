# One image for all four services and the command line:
#
#   docker build -t triptych .
#   docker run --rm triptych model_svc          # python -m model_svc, set by TRIPTYCH_MODEL_*
#
# PIP_ARGS says where pip finds PyTorch's CPU build; without it x86-64 gets the CUDA build, which
# works everywhere and is several times larger.
ARG PYTHON=python:3.12-slim-bookworm

FROM ${PYTHON} AS wheels
ARG PIP_ARGS=""
WORKDIR /source
COPY constraints.txt ./
RUN python -m pip install --quiet --constraint constraints.txt pip
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY protos protos
COPY chassis chassis
COPY kernels kernels
COPY router router
COPY tokenizer_svc tokenizer_svc
COPY model_svc model_svc
COPY detokenizer_svc detokenizer_svc
COPY triptych triptych
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --quiet --constraint constraints.txt \
      --build-constraint constraints.txt ${PIP_ARGS} --wheel-dir /wheels .

FROM ${PYTHON}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin triptych
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python -m pip install --quiet --no-cache-dir --no-index --find-links /wheels triptych
COPY models/demo /models/demo
USER triptych
WORKDIR /tmp
# Stopped by SIGTERM, which every service takes as its cue to drain.
ENTRYPOINT ["python", "-m"]
CMD ["router"]
