"""Put an image into a container registry, under a name that says what it is for."""

from docker.errors import APIError

from minsky.errors import MinskyError
from minsky.images.build import ensure
from minsky.images.engine import console, docker
from minsky.images.recipes import Image


def push(wanted: Image, repository: str) -> str:
    """Push *wanted* (built first if it is not there) as `REPOSITORY:TARGET-KEY`; what it can be pulled by.

    Args:
        wanted: an image.
        repository: registry and name, as `docker push` takes it: `registry.example.org:5000/hpc/lab`.

    Returns:
        `REPOSITORY@sha256:...`, which names this content and no other.

    Raises:
        MinskyError: as `ensure`, or *repository* is no name, or the registry does not answer or take it.
    """
    version = str(wanted.target).replace("+", ".") + f"-{wanted.key}"  # a tag knows no plus
    built = docker().images.get(ensure(wanted))
    digest, failure = "", ""
    try:
        built.tag(repository, version)
        for message in docker().images.push(repository, tag=version, stream=True, decode=True):
            failure = message.get("error", failure)
            digest = message.get("aux", {}).get("Digest", digest)
            if message.get("status") in ("Pushed", "Layer already exists"):
                console.print(f"[{wanted.name}] {message['id']}: {message['status'].lower()}")
    except APIError as error:
        failure = str(error.explanation)
    finally:  # the name served to push; minsky/lab:KEY stays
        if docker().images.list(f"{repository}:{version}"):
            docker().images.remove(f"{repository}:{version}")
    if failure or not digest:
        registry = repository.partition("/")[0]
        raise MinskyError(
            f"{wanted.tag} was not pushed to {repository}:{version}: {failure or 'no digest came back'}. See "
            "whether that is a name (REGISTRY/NAME, without a tag), the registry answers and you may write "
            f"there (`docker login {registry}`), then type the same command again."
        )
    return f"{repository}@{digest}"
