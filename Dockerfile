# One image for all four services and the command line:
#
#   docker build -t triptych .
#   docker run --rm triptych model_svc          # python -m model_svc, set by TRIPTYCH_MODEL_*
#
# Any builder will do; nothing here needs BuildKit. PYTHON is a Debian-like image with python3 from
# 3.11 on and pip. PIP_ARGS says where pip finds PyTorch's CPU build; without it x86-64 gets the
# CUDA build, which works everywhere and is several times larger.
ARG PYTHON=python:3.12-slim-bookworm

FROM ${PYTHON} AS build
ARG PIP_ARGS=""
WORKDIR /source
# For the CPU device's operations in C; the compiler stays in this stage.
RUN command -v gcc > /dev/null \
 || { apt-get update -qq \
   && apt-get install -qq --yes --no-install-recommends gcc libc6-dev > /dev/null \
   && rm -rf /var/lib/apt/lists/*; }
COPY constraints.txt pyproject.toml ./
# The services' environment is filled from outside, so that the image needs no pip. Dependencies
# come first and by themselves: a change of our own code leaves their layer as it is.
RUN python3 -m venv --without-pip /opt/pip \
 && python3 -m venv --without-pip /opt/triptych \
 && python3 -m pip --python /opt/pip/bin/python install --quiet --constraint constraints.txt pip \
 && python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['serve'], sep='\n')" > dependencies.txt \
 && /opt/pip/bin/pip --python /opt/triptych/bin/python install --quiet --no-cache-dir \
      --constraint constraints.txt ${PIP_ARGS} --requirement dependencies.txt \
 # What is there for those who test these libraries, or compile against them.
 && cd /opt/triptych/lib/python3*/site-packages \
 && rm -rf torch/include torch/test \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find . -type d -name tests -prune -exec rm -rf {} +
COPY README.md LICENSE NOTICE setup.py ./
COPY protos protos
COPY chassis chassis
COPY kernels kernels
COPY router router
COPY tokenizer_svc tokenizer_svc
COPY model_svc model_svc
COPY detokenizer_svc detokenizer_svc
COPY triptych triptych
# Beside the environment and not in it: a layer of its own, laid over it below.
RUN /opt/pip/bin/pip --python /opt/triptych/bin/python install --quiet --no-cache-dir --no-deps \
      --build-constraint constraints.txt ${PIP_ARGS} --prefix /own .

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Triptych" \
      org.opencontainers.image.description="Large language models as a gRPC service" \
      org.opencontainers.image.licenses="Apache-2.0"
# No Python file is compiled or looked for outside the environment: the root may be read-only, and
# whoever can write to the working directory cannot have it imported.
ENV PATH=/opt/triptych/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin \
      triptych
COPY --from=build /opt/triptych /opt/triptych
COPY --from=build /own /opt/triptych
COPY models/demo /models/demo
USER triptych
# Stopped by SIGTERM, which every service takes as its cue to drain.
ENTRYPOINT ["python", "-m"]
CMD ["router"]
